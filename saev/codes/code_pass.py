"""Code pass: one pass over images that writes the sparse codes of every token to disk.

Suffixes: b images, t tokens, p chosen tokens, d width, s latents.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from datamodules.progress import progress_bar, progress_bars
from saev.backbones import Backbone
from saev.codes.images import ImageList, pixel_batches
from saev.codes.part_builder import PartBuilder
from saev.codes.sparse_codes import CodePart
from saev.codes.store import CodeStore
from saev.sae import SparseAutoencoder

MAX_CODES = 2**25
"""Dense codes held at once: 128 MB."""

Encoder = Callable[[Tensor], Tensor]
"""Raw activations (…, d) → codes (…, s), none of them negative."""


class CodePass:
    """Runs the backbone over the images of missing parts and writes their codes.

    Args:
        backbone: of the dictionary.
        sae: says which layer, which tokens, and which tokens are normal.
        images: in store order.
        encoder: of the chosen tokens' raw activations.
        store: of these images and of this encoder's units.
        also: further encoders of the same tokens, each with its store; the backbone runs once.
    """

    def __init__(
        self,
        backbone: Backbone,
        sae: SparseAutoencoder,
        images: ImageList,
        encoder: Encoder,
        store: CodeStore,
        *,
        also: Sequence[tuple[Encoder, CodeStore]] = (),
        batch_size: int = 32,
        num_workers: int = 2,
        device: str | torch.device = "cpu",
    ) -> None:
        assert sae.cfg.layer is not None and sae.cfg.tokens is not None
        self.device = torch.device(device)
        self.backbone, self.sae = backbone.to(self.device), sae.to(self.device)
        self.images, self.targets = images, [(encoder, store), *also]
        self.layer, self.batch_size, self.num_workers = sae.cfg.layer, batch_size, num_workers
        self.positions = backbone.token_indices(sae.cfg.tokens["which"]).to(self.device)

    def run(self, index: int = 0, count: int = 1) -> None:
        """Writes every missing part that is this process's: those with number % count = index."""
        store = self.targets[0][1]
        missing = {part for _, one in self.targets for part in one.missing()}
        todo = [part for part in sorted(missing) if part % count == index]
        n_images = sum(len(store.images_of(part)) for part in todo)
        with progress_bars(bool(todo)), progress_bar("encoding images", n_images) as advance:
            for part in todo:
                indices = list(store.images_of(part))
                codes = self._part(indices)
                for (_, target), found in zip(self.targets, codes, strict=True):
                    target.write(part, found)
                advance(len(indices))

    @torch.no_grad()
    def _part(self, indices: list[int]) -> list[CodePart]:
        builders = [PartBuilder(one.n_latents, one.n_tokens) for _, one in self.targets]
        batches = pixel_batches(
            self.images, indices, self.backbone, self.batch_size, self.num_workers
        )
        for pixels, whole in batches:
            self._encode(pixels.to(self.device), whole.to(self.device), builders)
        return [builder.build() for builder in builders]

    def _encode(
        self,
        pixels: Float[Tensor, "b 3 h w"],
        whole: Bool[Tensor, " b"],
        builders: list[PartBuilder],
    ) -> None:
        acts_btd = self.backbone.tap(pixels, [self.layer])[self.layer]
        output = self.backbone.resume(acts_btd, self.layer)
        x_bpd = acts_btd[:, self.positions].float()
        normal_bp = self.sae.is_normal(x_bpd) & whole[:, None]
        for (encoder, store), builder in zip(self.targets, builders, strict=True):
            step = max(1, MAX_CODES // (x_bpd.shape[1] * store.n_latents))
            for first in range(0, len(x_bpd), step):
                span = slice(first, first + step)
                builder.add(encoder(x_bpd[span]), normal_bp[span])
            builder.add_outputs(output.pooled.float() * whole[:, None], output.logits)


@torch.no_grad()
def tokens_of(
    backbone: Backbone,
    sae: SparseAutoencoder,
    images: ImageList,
    n_images: int,
    seed: int = 0,
    *,
    batch_size: int = 32,
    num_workers: int = 0,
) -> Float[Tensor, "n d"]:
    """Normal activations of a few random images, on the CPU."""
    assert sae.cfg.layer is not None and sae.cfg.tokens is not None
    rng = np.random.default_rng(seed)
    chosen = [int(index) for index in rng.permutation(len(images.entries))[:n_images]]
    device = next(backbone.parameters()).device
    positions = backbone.token_indices(sae.cfg.tokens["which"]).to(device)
    rows = []
    for pixels, whole in pixel_batches(images, chosen, backbone, batch_size, num_workers):
        acts = backbone.tap(pixels.to(device), [sae.cfg.layer])[sae.cfg.layer]
        x_bpd = acts[:, positions].float()
        kept = sae.to(device).is_normal(x_bpd) & whole.to(device)[:, None]
        rows.append(x_bpd[kept].cpu())
    return torch.cat(rows)


def identity_of(
    sae: SparseAutoencoder, backbone: Backbone, images: ImageList, encoder: str
) -> dict[str, Any]:
    """What codes belong to; a run that finds others in its folder refuses to mix them."""
    digest = hashlib.sha256()
    for tensor in sae.state_dict().values():
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).tobytes())
    return {
        "encoder": encoder,
        "dictionary": digest.hexdigest(),
        "backbone": {"name": backbone.name, "sha256": backbone.weights["sha256"]},
        "layer": sae.cfg.layer,
        "tokens": sae.cfg.tokens,
        "images": {name: source.fingerprint() for name, source in images.sources.items()},
    }


def open_code_store(folder: Path, sae: SparseAutoencoder, backbone: Backbone, images: ImageList,
               encoder: str, n_latents: int, images_per_part: int) -> CodeStore:  # fmt: skip
    """The store of one encoder's codes on these images, new or continued."""
    assert sae.cfg.tokens is not None
    return CodeStore.create(
        folder,
        images.ids,
        n_latents=n_latents,
        n_tokens=len(backbone.token_indices(sae.cfg.tokens["which"])),
        identity=identity_of(sae, backbone, images, encoder),
        images_per_part=images_per_part,
    )
