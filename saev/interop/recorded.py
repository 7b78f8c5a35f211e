"""What only activations can say of a foreign dictionary: a recording decides it.

Shapes: `n` tokens, `d` d_model.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.activations import Manifest
from datamodules.activations.tar import iter_samples
from saev.errors import UserError
from saev.interop.foreign import Foreign, to_dictionary
from saev.metrics.reconstruction import ExplainedVariance

MOST_TOKENS = 8192
"""Enough to tell reconstructions apart that differ by a bias."""
MOST_IMAGES = 256


class Recorded(NamedTuple):
    """A recording, opened."""

    manifest: Manifest
    x: Float[Tensor, "n d"]
    """Some of its tokens of normal norm."""

    @property
    def provenance(self) -> dict[str, Any]:
        """Fields of ``SAEConfig`` that say what the dictionary is for."""
        manifest = self.manifest
        return {
            "backbone": manifest.backbone, "layer": manifest.layer, "tokens": manifest.tokens,
            "manifest_id": manifest.id, "manifest_sha256": manifest.sha256,
            "max_norm": manifest.statistics.max_norm,
        }  # fmt: skip


def read_recording(folder: str | Path) -> Recorded:
    """The manifest and some tokens; raises UserError where there is no recording or none are normal."""
    manifest = Manifest.read(folder)
    samples = (one for shard in manifest.shards for one in iter_samples(folder, shard))
    found = [np.asarray(sample.acts, np.float32) for sample in islice(samples, MOST_IMAGES)]
    x = torch.from_numpy(np.concatenate(found))
    limit = manifest.statistics.max_norm
    if limit is not None:
        x = x[torch.linalg.vector_norm(x, dim=1) <= limit]
    if not len(x):
        raise UserError(f"{folder} has no token of normal norm among its first {len(found)} images")
    return Recorded(manifest, x[:: max(1, len(x) // MOST_TOKENS)])


def decided(foreign: Foreign, recorded: Recorded, where: str) -> Foreign:
    """The same with its open question answered, and the answer among what is said.

    Raises:
        UserError: the recording is of another width.
    """
    check_width(foreign.W_enc.shape[1], recorded, where)
    if foreign.open_question is None:
        return foreign
    if foreign.open_question == "normalization":
        return replace(_with_statistics(foreign, recorded), open_question=None)
    errors = {
        subtract: unexplained(replace(foreign, subtract_b_dec=subtract), recorded.x, where)
        for subtract in (True, False)
    }
    best = min(errors, key=errors.__getitem__)
    said = (
        f"b_dec is {'subtracted' if best else 'not subtracted'}: on {len(recorded.x):,} recorded tokens "
        f"{errors[True]:.3f} of the variance is unexplained if it is, {errors[False]:.3f} if not"
    )
    return replace(foreign, subtract_b_dec=best, open_question=None, said=(*foreign.said, said))


def normalized_by(foreign: Foreign, recorded: Recorded, where: str) -> Foreign:
    """The same for raw activations, of one that reads those normalised by the recording's statistics.

    Raises:
        UserError: the recording is of another width.
    """
    check_width(foreign.W_enc.shape[1], recorded, where)
    found = _with_statistics(foreign, recorded)
    answered = foreign.open_question == "normalization"
    return replace(found, open_question=None) if answered else found


def check_width(width: int, recorded: Recorded, where: str) -> None:
    """Raises UserError where a dictionary reads another width than the recording has."""
    if recorded.manifest.width != width:
        raise UserError(
            f"{where} reads {width} dimensions and the recording {recorded.manifest.id} has "
            f"{recorded.manifest.width}; record the layer it belongs to."
        )


def composed_statistics(
    recorded: Recorded, mean: Tensor | None = None, scale: Tensor | None = None
) -> tuple[Float[Tensor, " d"], Float[Tensor, ""]]:
    """Mean and scale for raw activations, where those given are for normalised ones.

    s′(s(x − μ) − μ′) = s′s(x − (μ + μ′/s))
    """
    statistics = recorded.manifest.statistics
    found = torch.tensor(statistics.mean)
    if mean is not None:
        found = found + mean.cpu() / statistics.scale
    own = 1.0 if scale is None else float(scale)
    return found, torch.tensor(own * statistics.scale)


def _with_statistics(foreign: Foreign, recorded: Recorded) -> Foreign:
    mean, scale = composed_statistics(
        recorded, foreign.extras.get("mean"), foreign.extras.get("scale")
    )
    extras: Mapping[str, Tensor] = {**foreign.extras, "mean": mean, "scale": scale}
    return replace(foreign, extras=extras, said=(*foreign.said, measured_words(recorded)))


def measured_words(recorded: Recorded) -> str:
    """A sentence on where mean and scale come from."""
    scale = float(torch.tensor(recorded.manifest.statistics.scale))
    return f"mean and scale ({scale:.4g}) were measured on {recorded.manifest.id}"


@torch.no_grad()
def unexplained(foreign: Foreign, x: Float[Tensor, "n d"], where: str) -> float:
    """1 − explained variance."""
    sae = to_dictionary(foreign, where)
    explained = ExplainedVariance(x.shape[1], x.mean(0))
    explained.update(x, sae.decode(sae.encode(x), x).to(x))
    return 1 - float(explained.compute())
