"""Methods compared in the table: the dictionary, fitted baselines, trained controls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from datamodules.images import ImageSource
from saev.backbones import Backbone
from saev.codes.code_pass import tokens_of
from saev.codes.images import ImageList
from saev.errors import UserError
from saev.loading import open_dictionary
from saev.sae import SparseAutoencoder
from saev.sae.baselines import KINDS, fit_baseline

RANDOM_KINDS = ("random", "untrained")
ABOUT = {
    "raw": "the dimensions of the activations, each sign a latent",
    "random": "a random orthogonal basis, both signs",
    "pca": "principal components, both signs",
    "ica": "independent components, both signs",
    "kmeans": "unit vectors of cluster centres; each token takes the best one",
    "semi_nmf": "components with non-negative codes",
    "untrained": "random atoms, encoder = decoder transposed, as many as the dictionary has",
}


@dataclass(frozen=True)
class BaselineSettings:
    """What ``baselines`` in conf/evaluate.yaml holds."""

    kinds: str | Sequence[str] | None
    trained: Mapping[str, str]
    pool_images: int
    n_bootstrap: int
    seed: int

    def __post_init__(self) -> None:
        for kind in self.chosen:
            if kind not in KINDS:
                raise UserError(
                    f"baselines.kinds must be all or some of {', '.join(KINDS)}, got {kind!r}."
                )
        if self.pool_images < 1:
            raise UserError(f"baselines.pool_images must be at least 1, got {self.pool_images}.")
        if self.n_bootstrap < 40:
            raise UserError(
                "baselines.n_bootstrap must be at least 40, or the ends of a 95 % interval are the "
                f"extremes, got {self.n_bootstrap}."
            )

    @property
    def chosen(self) -> list[str]:
        """The kinds to fit."""
        if self.kinds is None:
            return []
        if isinstance(self.kinds, str):
            return list(KINDS) if self.kinds == "all" else [self.kinds]
        return list(dict.fromkeys(self.kinds))

    @property
    def wanted(self) -> bool:
        """Whether a table is asked for."""
        return bool(self.chosen or self.trained)


class Contender(NamedTuple):
    """A column of the table."""

    name: str
    sae: SparseAutoencoder
    backbone: Backbone
    is_random: bool
    """Whether part of it was drawn and never trained: its atoms, or the model below it."""
    about: str


def contenders(
    sae: SparseAutoencoder, backbone: Backbone, source: ImageSource, settings: BaselineSettings,
    folder: Path,
) -> list[Contender]:  # fmt: skip
    """The dictionary, then the baselines, each fitted and left as a folder below ``folder``.

    Raises:
        UserError: no training images to fit to, or a trained control of another layer or tokens.
    """
    found = [Contender("sae", sae, backbone, False, f"this dictionary ({sae.cfg.activation})")]
    if settings.chosen:
        items = [(source.name, item) for item in source.split("train")]
        if not items:
            raise UserError(
                f"the image source {source.name!r} has no training images to fit baselines to; "
                "leave images=… out, or give a source with a training split"
            )
        images = ImageList({source.name: source}, items)
        pool = tokens_of(backbone, sae, images, settings.pool_images, settings.seed)
        for kind in settings.chosen:
            baseline = fit_baseline(kind, sae, pool, settings.seed)
            baseline.save_pretrained(folder / kind)
            found.append(Contender(kind, baseline, backbone, kind in RANDOM_KINDS, ABOUT[kind]))
    for name, where in settings.trained.items():
        if name in [one.name for one in found]:
            raise UserError(
                f"baselines.trained.{name} has the name of another column; choose another"
            )
        found.append(_trained(name, where, sae, backbone))
    return found


def _trained(name: str, where: str, like: SparseAutoencoder, backbone: Backbone) -> Contender:
    sae, own = open_dictionary(where)
    assert sae.cfg.tokens is not None and like.cfg.tokens is not None
    for what, mine, other in (
        ("layer", like.cfg.layer, sae.cfg.layer),
        ("tokens", like.cfg.tokens["which"], sae.cfg.tokens["which"]),
        ("backbone", backbone.name, own.name),
    ):
        if mine != other:
            raise UserError(
                f"baselines.trained.{name}={where} was trained on {what} {other} and the dictionary "
                f"on {mine}; give one of the same model, layer and tokens"
            )
    frozen = (sae.cfg.recipe.get("decoder") or {}).get("kind") == "FrozenAtoms"
    random_model = own.weights["kind"] == "random"
    same = own.weights["sha256"] == backbone.weights["sha256"]
    about = f"a trained dictionary ({sae.cfg.activation})"
    if frozen:
        about = "random atoms that stay as they are while the encoder is trained"
    if random_model:
        about = "trained like any other, on the same model with random weights"
    return Contender(name, sae, backbone if same else own, frozen or random_model, about)
