"""Scenes drawn ahead of training into tensors, by a pool of processes.

Shapes: `b` scenes, `a` attributes in the order of scene values, `p` patches, row-major.
"""

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

CHUNK = 500  # scenes per task of the pool: 14 MB to hand over at 96 pixels


class LabelledScenes(NamedTuple):
    """Images and everything that is to be predicted from them."""

    images: UInt8[Tensor, "b 3 h w"]
    values: UInt8[Tensor, "b a"]  # number of each attribute's value
    patches: UInt8[Tensor, "b 3 p"]  # per PATCH_ATTRIBUTES: 0 no object, 1 + value


def draw_labelled(
    seed: int, n_scenes: int, size: int, patch_size: int, n_workers: int = 0
) -> LabelledScenes:
    """Scenes 0 … `n_scenes` − 1 of set `seed`; 0 workers draws in this process.

    The result is the same for any number of workers.
    """
    from datamodules.scenes.labels import draw_span

    draw = partial(draw_span, seed=seed, size=size, patch_size=patch_size)
    spans = [(start, min(start + CHUNK, n_scenes)) for start in range(0, n_scenes, CHUNK)]
    if n_workers == 0:
        chunks = list(map(draw, spans))
    else:
        # Spawned, not forked: a fork of a process with torch's threads can hang.
        with ProcessPoolExecutor(n_workers, mp_context=get_context("spawn")) as pool:
            chunks = list(pool.map(draw, spans))
    images, values, patches = (
        torch.from_numpy(np.concatenate(part)) for part in zip(*chunks, strict=True)
    )
    return LabelledScenes(images, values, patches)
