"""Code pass: one pass over images that writes the sparse codes of every token to disk.

Suffixes: b images, t tokens, p chosen tokens, d width, s latents.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from rich.progress import Progress
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.images import ImageBatch, ImageDataset, ImageItem, ImageSource
from saev.backbones import Backbone
from saev.codes.sparse_codes import CodePart, PartBuilder
from saev.codes.store import CodeStore
from saev.errors import UserError
from saev.sae import SparseAutoencoder

MAX_CODES = 2**25
"""Dense codes held at once: 128 MB."""

Encoder = Callable[[Tensor], Tensor]
"""Raw activations (…, d) → codes (…, s), none of them negative."""


@dataclass(frozen=True)
class ImageList:
    """Images of one or more sources, in the order in which everything counts them."""

    sources: dict[str, ImageSource]
    entries: list[tuple[str, ImageItem]]
    """Name of the source and item."""

    @classmethod
    def of(cls, sources: Mapping[str, ImageSource], n_images: int | None) -> "ImageList":
        """All images of all sources; with a limit, evenly spaced ones.

        Raises:
            UserError: no images, or two sources share an image id.
        """
        entries = [(name, item) for name, source in sources.items() for item in source.items]
        if not entries:
            raise UserError("the image sources hold no images to describe latents with")
        if n_images is not None and n_images < len(entries):
            chosen = np.linspace(0, len(entries) - 1, n_images).round().astype(int)
            entries = [entries[index] for index in chosen]
        ids = [item.image_id for _, item in entries]
        if len(set(ids)) < len(ids):
            twice = next(image_id for image_id in ids if ids.count(image_id) > 1)
            raise UserError(f"the image {twice!r} is in two of the image sources; leave one out")
        return cls(dict(sources), entries)

    @property
    def ids(self) -> list[str]:
        return [item.image_id for _, item in self.entries]

    def of_source(self, name: str) -> tuple[int, list[ImageItem]]:
        """Position of the first image of a source, and its items; they stand together."""
        places = [index for index, (own, _) in enumerate(self.entries) if own == name]
        return (places[0] if places else 0), [self.entries[index][1] for index in places]

    def source_of(self, item: ImageItem) -> ImageSource:
        """The source that an item belongs to."""
        return self.sources[next(name for name, one in self.entries if one == item)]

    def picture(self, index: int, backbone: Backbone) -> UInt8[np.ndarray, "h w 3"]:
        """One image as the model sees it; grey where it is broken."""
        name, item = self.entries[index]
        loaded = self.sources[name].load_or_skip(item)
        if loaded is None:
            return np.full((*backbone.image_size, 3), 128, np.uint8)
        mean, std = (torch.tensor(v)[:, None, None] for v in (backbone.mean, backbone.std))
        pixels = ((backbone.transform(loaded) * std + mean).clamp(0, 1) * 255).round().byte()
        return pixels.permute(1, 2, 0).numpy()


class _Joined(ImageDataset):
    """The images of an ``ImageList`` through the data set that loads one source."""

    def __init__(self, images: ImageList, indices: Sequence[int], transform: Any) -> None:
        self.images, self.indices, self.transform = images, indices, transform

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Any:
        name, item = self.images.entries[self.indices[position]]
        single = ImageDataset(self.images.sources[name], [item], self.transform)
        return single[0]._replace(position=self.indices[position])


def image_batches(
    images: ImageList,
    indices: Sequence[int],
    backbone: Backbone,
    batch_size: int,
    num_workers: int,
) -> Iterator[tuple[Tensor, Bool[Tensor, " b"]]]:
    """Pixels of images in the order given, and which of them are whole; broken ones are zeros."""
    loader = DataLoader(
        _Joined(images, indices, backbone.transform),
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=ImageDataset.collate,
    )
    place = {index: number for number, index in enumerate(indices)}
    first = 0
    for batch in loader:
        batch: ImageBatch
        for item, error in batch.broken:
            images.source_of(item).report_broken(item, error)
        n = len(batch.items) + len(batch.broken)
        pixels = torch.zeros(n, 3, *backbone.image_size)
        whole = torch.zeros(n, dtype=torch.bool)
        places = [place[position] - first for position in batch.positions]
        if places:
            pixels[places] = batch.images
            whole[places] = True
        first += n
        yield pixels, whole


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
        with Progress(transient=True, disable=not todo) as progress:
            n_images = sum(len(store.images_of(part)) for part in todo)
            task = progress.add_task("encoding images", total=n_images)
            for part in todo:
                indices = list(store.images_of(part))
                codes = self._part(indices)
                for (_, target), found in zip(self.targets, codes, strict=True):
                    target.write(part, found)
                progress.advance(task, len(indices))

    @torch.no_grad()
    def _part(self, indices: list[int]) -> list[CodePart]:
        builders = [PartBuilder(one.n_latents, one.n_tokens) for _, one in self.targets]
        batches = image_batches(
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
    for pixels, whole in image_batches(images, chosen, backbone, batch_size, num_workers):
        acts = backbone.tap(pixels.to(device), [sae.cfg.layer])[sae.cfg.layer]
        x_bpd = acts[:, positions].float()
        kept = sae.to(device).is_normal(x_bpd) & whole.to(device)[:, None]
        rows.append(x_bpd[kept].cpu())
    return torch.cat(rows)


def identity_of(
    sae: SparseAutoencoder, backbone: Backbone, images: ImageList, encoder: str
) -> dict[str, Any]:
    """What codes belong to; a run that finds others in its folder refuses to mix them."""
    import hashlib

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


def open_store(folder: Path, sae: SparseAutoencoder, backbone: Backbone, images: ImageList,
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
