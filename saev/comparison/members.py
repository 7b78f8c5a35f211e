"""Members of a comparison: dictionaries with their codes on the common images."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase

import torch

from saev.backbones import Backbone
from saev.codes.code_pass import CodePass, identity_of, open_code_store
from saev.codes.images import ImageList
from saev.codes.store import CodeStore
from saev.errors import UserError
from saev.sae import SparseAutoencoder


@dataclass(frozen=True)
class CompareSettings:
    """What ``comparison`` in conf/compare.yaml holds."""

    n_images: int | None
    batch_size: int
    num_workers: int
    images_per_part: int
    rows: str
    n_draws: int
    tables: Mapping[str, str]
    n_permutations: int
    n_map_permutations: int
    n_bootstrap: int
    fdr: float
    min_power: float
    least_auroc: float
    n_drives: int
    drive_images: int
    drive_strength: float
    seed: int

    def __post_init__(self) -> None:
        if not 0.5 < self.least_auroc < 1:
            raise UserError(
                f"comparison.least_auroc={self.least_auroc} is the AUROC of a latent that should not "
                "be missed; choose it between 0.5 and 1"
            )
        if self.rows not in ("image", "patch"):
            raise UserError(f"comparison.rows={self.rows!r}; choose image or patch")


def letters(n: int) -> list[str]:
    """Names of so many dictionaries: a to z, then a1 to z1 and so on."""
    return [f"{ascii_lowercase[i % 26]}{i // 26 or ''}" for i in range(n)]


@dataclass(frozen=True)
class Member:
    """One of the dictionaries compared."""

    name: str
    sae: SparseAutoencoder
    backbone: Backbone
    store: CodeStore

    @property
    def layer(self) -> int:
        """Block after which the dictionary reads."""
        assert self.sae.cfg.layer is not None
        return self.sae.cfg.layer

    @property
    def tokens(self) -> torch.Tensor:
        """Positions on the token axis of the tokens it was trained on."""
        assert self.sae.cfg.tokens is not None
        return self.backbone.token_indices(self.sae.cfg.tokens["which"])

    def same_model(self, other: "Member") -> bool:
        """Whether both read one and the same network."""
        return self._network() == other._network()

    def _network(self) -> tuple:
        spec, weights = self.backbone.spec, self.backbone.weights
        drawn = spec.get("seed") if weights["kind"] == "random" else None
        return self.backbone.name, weights["kind"], weights["sha256"], drawn


def encode_member(
    name: str,
    sae: SparseAutoencoder,
    backbone: Backbone,
    images: ImageList,
    codes_dir: Path,
    settings: CompareSettings,
    device: str | torch.device,
) -> Member:
    """Codes of one dictionary on the common images, taken from ``codes_dir`` where they are.

    A folder there is named by a hash of the dictionary, its model and the images, so comparisons
    share what they have in common.
    """
    identity = identity_of(sae, backbone, images, "sae")
    described = json.dumps([identity, images.ids, settings.images_per_part], sort_keys=True)
    digest = hashlib.sha256(described.encode()).hexdigest()[:12]
    folder = codes_dir / f"{backbone.name}-layer{sae.cfg.layer}-{digest}"
    store = open_code_store(folder, sae, backbone, images, "sae", sae.cfg.d_sae,
                       settings.images_per_part)  # fmt: skip
    CodePass(backbone, sae, images, sae.encode, store, batch_size=settings.batch_size,
             num_workers=settings.num_workers, device=device).run()  # fmt: skip
    return Member(name, sae, backbone, store)


def check_same_patches(dictionaries: Mapping[str, tuple[SparseAutoencoder, Backbone]]) -> None:
    """Raises UserError where a row of one dictionary's codes is not the same patch for another's."""
    views = {
        name: (backbone.grid, backbone.transform_spec, sae.cfg.tokens)
        for name, (sae, backbone) in dictionaries.items()
    }
    first = next(iter(views))
    for name, view in views.items():
        if view != views[first]:
            raise UserError(
                f"comparison.rows=patch needs dictionaries that see the same patches, and {first} "
                f"(grid {views[first][0]}) and {name} (grid {view[0]}) see others; use "
                "comparison.rows=image"
            )
