"""All of a comparison: codes, matches, concepts, power, drives."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from datamodules.images import ImageSource
from saev.backbones import Backbone
from saev.codes.images import ImageList
from saev.comparison.drives import drive_metrics, drive_table
from saev.comparison.lacking import concept_metrics, concept_table, power_table, read_concepts
from saev.comparison.matches import match_metrics, match_table
from saev.comparison.members import CompareSettings, Member, check_same_patches, encode_member
from saev.comparison.page import Tables
from saev.errors import UserError
from saev.sae import SparseAutoencoder


@dataclass(frozen=True)
class Comparison:
    """Everything found."""

    members: list[Member]
    images: ImageList
    tables: Tables
    metrics: dict[str, float]


def compare_dictionaries(
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
    members = [
        encode_member(name, *pair, images, codes_dir, settings, device)
        for name, pair in dictionaries.items()
    ]
    matches = match_table(members, settings, device)
    names = [member.name for member in members]
    readings = [read_concepts(member, images, settings) for member in members]
    concepts = concept_table(names, readings, settings)
    power = power_table(names, readings)
    drives = drive_table(members, matches, images, settings, device)
    metrics = match_metrics(matches, settings.fdr) | concept_metrics(concepts)
    metrics |= drive_metrics(drives)
    return Comparison(members, images, Tables(matches, concepts, power, drives), metrics)
