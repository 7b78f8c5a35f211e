"""The benchmark of one dictionary, for a command: passes, numbers, verdicts."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from datamodules.images import ImageItem, ImageSource
from saev.backbones import Backbone
from saev.errors import UserError
from saev.evaluation.baselines.cells import ControlComparison, verdict
from saev.evaluation.baselines.methods import Contender
from saev.evaluation.baselines.table import PassSettings
from saev.evaluation.visaebench.benchmark_arms import OWN, UNTRAINED, benchmark_arms
from saev.evaluation.visaebench.image_features import ImageFeatures
from saev.evaluation.visaebench.patch_pass import embedding_by, patch_pass
from saev.evaluation.visaebench.settings import BenchmarkSettings
from saev.evaluation.visaebench.seven_numbers import SEVEN, BenchmarkImages, Number, seven_numbers
from saev.sae import SparseAutoencoder

FEWEST_PATCHES = 4
"""Of a grid on which Moran's I has a spread."""


class Judge(NamedTuple):
    """The backbone by which images are alike, for M5."""

    name: str
    is_independent: bool
    """Whether it is another than the dictionary's."""


class BenchmarkTable(NamedTuple):
    """Everything the files and the page are made of."""

    arms: list[Contender]
    numbers: dict[str, dict[str, Number]]
    """Key → dictionary → number."""
    verdicts: dict[str, ControlComparison]
    """``separates`` is whether the dictionary is better than the untrained one."""
    judge: Judge
    sources: dict[str, int]
    """Name → images; the second is of M6."""
    share_left_out: float
    """Of the patches: beyond the norm limit."""


def benchmark_table(
    sae: SparseAutoencoder, backbone: Backbone, source: ImageSource, other: ImageSource | None,
    embedder: Backbone | None, settings: BenchmarkSettings, run: PassSettings,
) -> BenchmarkTable:  # fmt: skip
    """The seven numbers of the dictionary and of four others on the held-out images of ``source``.

    Args:
        other: labelled images of another kind, for M6; all of their splits are used.
        embedder: judge of M5; None: the dictionary's own backbone, which is not independent.

    Raises:
        UserError: no images, a dictionary without patches, or a file of siblings that is wrong.
    """
    if (sae.cfg.tokens or {}).get("which") not in ("patch", "all"):
        raise UserError(
            "benchmark=visaebench reads codes of patches, and this dictionary was trained on "
            f"{(sae.cfg.tokens or {}).get('which')} tokens; give one of tokens.which=patch"
        )
    groups = settings.groups(source.class_names or [])
    items = spread_out(source.split("heldout"), settings.n_images)
    if not items:
        raise UserError(f"the image source {source.name!r} has no held-out images to score on")
    arms = benchmark_arms(sae, backbone, source, settings.pool_images, settings.seed)
    spatial = backbone.grid[0] * backbone.grid[1] >= FEWEST_PATCHES
    own, read = patch_pass(
        arms, source, items, run, spatial=spatial, seed=settings.seed, description="scoring images"
    )
    elsewhere = None
    if other is not None:
        others = spread_out(other.items, settings.n_images)
        elsewhere, _ = patch_pass(
            arms, other, others, run, spatial=False, seed=settings.seed,
            description="scoring other images",
        )  # fmt: skip
    judge = backbone if embedder is None else embedder
    embedding_ne = own.embedding_ne if embedder is None else embedding_by(judge, source, read, run)
    lacking = lacking_data(own, elsewhere, groups, spatial=spatial)
    images = BenchmarkImages(settings, own, embedding_ne, elsewhere, groups, lacking)
    found = {one.name: seven_numbers(images, one.name) for one in arms}
    numbers = {key: {name: found[name][key] for name in found} for key in found[OWN]}
    sources = {source.name: len(own.tokens_n)}
    if other is not None and elsewhere is not None:
        sources[f"{other.name} (M6)"] = len(elsewhere.tokens_n)
    return BenchmarkTable(
        arms,
        numbers,
        verdicts_of(numbers),
        Judge(judge.name, judge.weights["sha256"] != backbone.weights["sha256"]),
        sources,
        1 - float(own.tokens_n.mean()) / own.n_patches,
    )


def spread_out(items: Sequence[ImageItem], n_images: int | None) -> list[ImageItem]:
    """At most so many, evenly spaced: sources list one class after the other."""
    if n_images is None or n_images >= len(items):
        return list(items)
    return [items[number * len(items) // n_images] for number in range(n_images)]


def lacking_data(
    own: ImageFeatures, other: ImageFeatures | None, groups: Mapping[str, list[int]] | None,
    *, spatial: bool,
) -> dict[str, str]:  # fmt: skip
    """Key of a number → why these images do not give it."""
    lacking = {}
    if not spatial:
        lacking["spatial_coherence"] = f"a grid of {own.n_patches} patches has no spread of I"
    if own.label_n is None:
        reason = "not every image has a label; give labelled ones as images"
        lacking |= dict.fromkeys(("probe_ratio", "sparse_probing", "absorption"), reason)
    elif groups is None:
        lacking["absorption"] = (
            "no groups of sibling classes; give visaebench.siblings, a file of class<TAB>parent"
        )
    if other is None:
        lacking["transfer"] = "no images of another kind; give images@transfer_images"
    elif other.label_n is None:
        lacking["transfer"] = "not every image of another kind has a label"
    return lacking


def verdicts_of(numbers: Mapping[str, Mapping[str, Number]]) -> dict[str, ControlComparison]:
    """By key: better than the untrained dictionary, and than each other one, beyond chance."""
    found = {}
    for metric in SEVEN:
        cells = {name: one.cell for name, one in numbers[metric.key].items()}
        others = {name: cell for name, cell in cells.items() if name != OWN}
        against = verdict(cells[OWN], others, metric.sign).against
        found[metric.key] = ControlComparison(against.get(UNTRAINED), against)
    return found
