"""From images to codes in memory.

Shapes: `b` images, `p` tokens that the dictionary reads of each, `d` width, `s` latents.
"""

from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from scipy import sparse
from torch import Tensor, nn

from datamodules.images import ImageSource, image_batches
from datamodules.progress import progress_bars
from saev.backbones import Backbone
from saev.cli.results import chosen_device
from saev.codes.encoded_images import EncodedImages
from saev.defaults import defaults
from saev.errors import UserError
from saev.loading import images_for, open_dictionary
from saev.sae import SparseAutoencoder
from saev.sources import Images, open_images

EVALUATION = defaults("evaluate", "evaluation")


@torch.no_grad()
def encode_images(
    sae: SparseAutoencoder | str | Path,
    images: Images | Sequence[Image.Image] | None = None,
    *,
    split: str | None = None,
    n_images: int | None = None,
    backbone: Backbone | nn.Module | str | None = None,
    batch_size: int = EVALUATION["batch_size"],
    num_workers: int = EVALUATION["num_workers"],
    device: str | torch.device | None = None,
    progress: bool = True,
) -> EncodedImages:
    """What a dictionary makes of images; tokens of abnormal norm have no codes.

    Args:
        sae: a dictionary, its folder or its id on the hub.
        images: a source, its name in ``conf/images``, a folder, or a list of PIL images; None: the
            images the dictionary was trained on.
        split: "train", "val", "test" or "heldout" of a source; None: all of its images.
        n_images: at most so many, the first of the source's order.
        backbone: the model it was trained on; None: the one it names.
        batch_size: images per forward pass.
        num_workers: processes that read images.
        device: None: a GPU where there is one.
        progress: whether a progress bar is shown.

    Raises:
        UserError: no images, a broken one (unless the source skips those), or another backbone.
    """
    name = "the dictionary" if isinstance(sae, SparseAutoencoder) else str(sae)
    opened, model = open_dictionary(sae, backbone=backbone)
    device = chosen_device(device)
    opened, model = opened.to(device), model.to(device)
    assert opened.cfg.layer is not None and opened.cfg.tokens is not None
    positions = model.token_indices(opened.cfg.tokens["which"]).to(device)
    ids: list[str] = []
    rows: list[sparse.csr_matrix] = []
    if isinstance(images, Sequence) and not isinstance(images, str):
        batches = _of_list(list(images)[:n_images], model, batch_size)
    else:
        given = open_images(images) if images is not None else None
        source = images_for(opened, name, given)
        batches = _of_source(source, split, n_images, model, batch_size, num_workers)
    with progress_bars(progress), closing(batches):
        for found, pixels in batches:
            acts = model.tap(pixels.to(device), [opened.cfg.layer])[opened.cfg.layer]
            x_bpd = acts[:, positions].float()
            z_bps = opened.encode(x_bpd) * opened.is_normal(x_bpd)[..., None]
            rows += [sparse.csr_matrix(z_ps.cpu().numpy()) for z_ps in z_bps]
            ids += found
    if not rows:
        raise UserError(
            "there are no images to encode; give a source, a folder or a list of images"
        )
    places = positions.tolist()
    names = [model.token_names[place] for place in places]
    return EncodedImages(sparse.csr_matrix(sparse.vstack(rows)), ids, places, names, model.grid)


def _of_list(
    images: Sequence[Any], backbone: Backbone, batch_size: int
) -> Generator[tuple[list[str], Tensor], None, None]:
    for image in images:
        if not isinstance(image, Image.Image):
            raise UserError(
                f"a list of images holds PIL images, got a {type(image).__name__}; open files with "
                "PIL.Image.open, or give their folder"
            )
    for first in range(0, len(images), batch_size):
        some = images[first : first + batch_size]
        pixels = torch.stack([backbone.transform(image.convert("RGB")) for image in some])
        yield [str(first + place) for place in range(len(some))], pixels


def _of_source(
    source: ImageSource, split: str | None, n_images: int | None, backbone: Backbone,
    batch_size: int, num_workers: int,
) -> Generator[tuple[list[str], Tensor], None, None]:  # fmt: skip
    items = (source.items if split is None else source.split(split))[:n_images]
    for batch in image_batches(
        source, items, backbone.transform, batch_size=batch_size, num_workers=num_workers,
        description="encoding images",
    ):  # fmt: skip
        yield [item.image_id for item in batch.items], batch.images
