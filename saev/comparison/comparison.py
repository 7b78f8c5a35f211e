"""Comparison of dictionaries, the whole of it: codes, matches, concepts, power, drives."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from datamodules.images import ImageSource
from saev.backbones import Backbone
from saev.codes.images import ImageList
from saev.comparison.drives import drive_metrics, drive_table
from saev.comparison.lacking import power_table, presence_metrics, presence_table, read_concepts
from saev.comparison.matches import match_metrics, match_table
from saev.comparison.members import CompareSettings, Member, check_same_patches, encode_member
from saev.comparison.page import Tables, draw_tables, write_comparison_page, write_figures
from saev.defaults import defaults
from saev.errors import UserError
from saev.files import write_table
from saev.sae import SparseAutoencoder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGES = defaults("compare", "pages")


@dataclass(frozen=True)
class Comparison:
    """Everything found."""

    members: list[Member]
    images: ImageList
    tables: Tables
    metrics: dict[str, float]
    settings: CompareSettings

    def __repr__(self) -> str:
        names = ", ".join(f"{member.name} ({member.sae.cfg.d_sae:,})" for member in self.members)
        return f"Comparison({names} on {len(self.images.entries):,} images)"

    def figures(self) -> "dict[str, Figure]":
        """A figure for each table that is not empty: matches, concepts, power."""
        return draw_tables(self.tables)

    def write(
        self,
        folder: str | Path,
        *,
        page: bool = PAGES["enabled"],
        thumbnails: bool = PAGES["thumbnails"],
        atlases: Mapping[str, str | None] | None = None,
    ) -> list[Path]:
        """Leaves tables, figures and ``index.html`` in a folder; returns the figures' files.

        Args:
            atlases: run folders of descriptions by member, whose names and pages the page links to.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, frame in self.tables.files().items():
            write_table(frame, folder / f"{name}.parquet")
        figures = write_figures(self.tables, folder)
        if page:
            write_comparison_page(
                self.members, self.images, self.tables, self.metrics, folder,
                fdr=self.settings.fdr, min_power=self.settings.min_power,
                least_auroc=self.settings.least_auroc,
                thumbnails=thumbnails, atlases=atlases,
            )  # fmt: skip
        return figures


def make_comparison(
    dictionaries: Mapping[str, tuple[SparseAutoencoder, Backbone]],
    sources: Mapping[str, ImageSource],
    codes_dir: Path,
    settings: CompareSettings,
    device: str | torch.device = "cpu",
) -> Comparison:
    """Shows all dictionaries the same images and compares what they say.

    Args:
        dictionaries: short name → the dictionary and the model it belongs to.
        sources: images, with whatever labels, masks or attributes they bring.
        codes_dir: where sparse codes are kept for the next comparison.

    Raises:
        UserError: no images, annotations that do not match them, rows that cannot be compared.
    """
    if unknown := sorted(set(settings.tables) - set(sources)):
        raise UserError(
            f"comparison.tables names the source {unknown[0]!r}; there are {', '.join(sources)}"
        )
    if settings.rows == "patch":
        check_same_patches(dictionaries)
    images = ImageList.of(sources, settings.n_images)
    if len(images.entries) < 2:
        raise UserError("latents of several dictionaries are matched over images; give two or more")
    members = [
        encode_member(name, *pair, images, codes_dir, settings, device)
        for name, pair in dictionaries.items()
    ]
    matches = match_table(members, images, settings, device)
    names = [member.name for member in members]
    readings = [read_concepts(member, images, settings) for member in members]
    concepts = presence_table(names, readings, settings)
    power = power_table(names, readings)
    drives = drive_table(members, matches, images, settings, device)
    metrics = match_metrics(matches, settings.fdr) | presence_metrics(concepts)
    metrics |= drive_metrics(drives)
    return Comparison(members, images, Tables(matches, concepts, power, drives), metrics, settings)
