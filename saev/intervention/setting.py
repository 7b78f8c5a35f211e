"""What a controlled experiment works with, from objects or from ``conf/intervene.yaml``."""

from dataclasses import dataclass

import torch
from omegaconf import DictConfig

from datamodules.images import ImageSource
from saev.backbones import Backbone
from saev.editing.tokens import Tokens
from saev.intervention.hypothesis import HypothesisFile
from saev.intervention.readout import Readout
from saev.sae import SparseAutoencoder


@dataclass(frozen=True)
class Setting:
    """What an experiment works with."""

    file: HypothesisFile
    sae: SparseAutoencoder
    backbone: Backbone
    readout: Readout
    source: ImageSource
    batch_size: int
    max_rows: int
    num_workers: int
    device: torch.device

    @property
    def layer(self) -> int:
        assert self.sae.cfg.layer is not None
        return self.sae.cfg.layer

    @property
    def reads_patches(self) -> bool:
        """Whether patch tokens are among those that the dictionary reads."""
        return (self.sae.cfg.tokens or {"which": "patch"})["which"] in ("patch", "all")

    @property
    def discovery_tokens(self) -> Tokens:
        """Where the dictionary looks for latents: the patches, or what else it reads."""
        which = "patch" if self.reads_patches else (self.sae.cfg.tokens or {})["which"]
        return Tokens.of(self.backbone, which).to(self.device)


def setting_of(
    cfg: DictConfig, file: HypothesisFile, sae: SparseAutoencoder, backbone: Backbone,
    readout: Readout, source: ImageSource, device: torch.device,
) -> Setting:  # fmt: skip
    """A setting from ``conf/intervene.yaml``."""
    run = cfg.intervention
    backbone.to(device)
    return Setting(
        file, sae.to(device).eval(), backbone, readout.to(device), source,
        run.batch_size, run.max_rows, run.num_workers, device,
    )  # fmt: skip
