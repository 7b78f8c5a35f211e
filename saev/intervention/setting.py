"""Setting of a controlled experiment: hypotheses, dictionary, model, head, images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.images import ImageBatch, ImageItem, ImageSource, image_batches
from saev.backbones import Backbone
from saev.editing.tokens import Tokens
from saev.errors import UserError
from saev.intervention.hypothesis import Hypothesis
from saev.intervention.readout import Readout
from saev.loading import check_belongs
from saev.sae import SparseAutoencoder


@dataclass(frozen=True)
class Setting:
    """What an experiment works with; models are moved to the device and left in eval mode."""

    file: Hypothesis
    sae: SparseAutoencoder
    backbone: Backbone
    readout: Readout
    source: ImageSource
    batch_size: int
    """Images tapped and encoded together."""
    max_rows: int
    """Images, edited or not, in one forward pass from the tap on."""
    num_workers: int
    device: torch.device

    def __post_init__(self) -> None:
        self.backbone.to(self.device)
        self.sae.to(self.device).eval()
        self.readout.to(self.device)

    @property
    def layer(self) -> int:
        assert self.sae.cfg.layer is not None
        return self.sae.cfg.layer

    @cached_property
    def saes(self) -> dict[str, SparseAutoencoder]:
        """The dictionary as "sae", and dictionaries of the same form that were never trained, under
        the names of :attr:`untrained`."""
        seeds = (self.file.seed + 1000 * number for number in range(self.file.untrained))
        fresh = (self.sae.untrained(seed).to(self.device).eval() for seed in seeds)
        return {"sae": self.sae, **dict(zip(self.untrained, fresh, strict=True))}

    @property
    def untrained(self) -> tuple[str, ...]:
        """Names of the dictionaries that were never trained."""
        return tuple(f"untrained {number}" for number in range(self.file.untrained))

    @property
    def reads_patches(self) -> bool:
        """Whether patch tokens are among those that the dictionary reads."""
        return (self.sae.cfg.tokens or {"which": "patch"})["which"] in ("patch", "all")

    @property
    def discovery_tokens(self) -> Tokens:
        """Where the dictionary looks for latents: the patches, or what else it reads."""
        which = "patch" if self.reads_patches else (self.sae.cfg.tokens or {})["which"]
        return Tokens.of(self.backbone, which).to(self.device)

    @cached_property
    def edited_tokens(self) -> Tokens:
        """Those that an edit may touch."""
        return Tokens.of(self.backbone, self.file.tokens).to(self.device)

    def check(self) -> None:
        """Before any image is read.

        Raises:
            UserError: the dictionary belongs to another backbone or block, or does not read what
                the head answers for.
        """
        check_belongs(self.sae, self.backbone)
        file, tokens = self.file, self.sae.cfg.tokens or {}
        if file.layer is not None and self.backbone.resolve_layer(file.layer) != self.layer:
            raise UserError(
                f"the hypothesis is about block {file.layer} and the SAE was trained on block "
                f"{self.layer}: give an SAE of that block, or change layer in the hypothesis"
            )
        if self.readout.per == "patch" and not self.reads_patches:
            raise UserError(
                f"the head answers per patch and the SAE reads {tokens.get('which')} tokens: give an "
                "SAE trained on tokens.which=patch"
            )

    def batches(self, items: Sequence[ImageItem], description: str) -> Iterator[ImageBatch]:
        """Images as the model takes them, in order; broken ones are reported and left out."""
        return image_batches(
            self.source, items, self.backbone.transform, batch_size=self.batch_size,
            num_workers=self.num_workers, description=description,
        )  # fmt: skip

    def tap(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b t d"]:
        """The stream after the dictionary's block."""
        return self.backbone.tap(images.to(self.device), [self.layer])[self.layer]
