"""``trainer.precision=auto``: the faster of float32 and bfloat16 products, gradients being the same.

Processors differ: on some bfloat16 products take less than half the time, on others five times as long.
"""

import copy
import statistics
import time
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from saev.sae.objectives import Step
from saev.training.sae_module import SAETraining

WIDE, NARROW = "32-true", "bf16-mixed"

LEAST_GAIN = 1.15
"""So many times faster bfloat16 has to be: timings of equal things differ by a few per cent."""

MOST_CHANGE = 0.02
"""Of the gradient of the encoder or the atoms, relative to its length."""

MEASURED_OPERATIONS = 2e10
"""Of the product that is timed: a part of the batch where a batch takes more."""

SECONDS = 1.0
MOST_ROUNDS = 9


class PrecisionChoice(NamedTuple):
    """What was chosen, and why."""

    precision: str
    """As Lightning's Trainer takes it."""
    reason: str


def choose_precision(
    module: SAETraining, acts: Float[Tensor, "n d"], batch_size: int, device: torch.device
) -> PrecisionChoice:
    """Times loss and gradients of the module on activations, for about a second; leaves it as it was.

    Args:
        acts: raw activations; no more than a batch of them is taken, in turn where there are fewer.
        device: where training will run.
    """
    cfg = module.sae.cfg
    a_token = 2 * cfg.d_model * cfg.d_sae
    if device.type not in ("cpu", "cuda"):
        return PrecisionChoice(WIDE, f"bfloat16 is not measured on {device.type}")
    n_tokens = min(batch_size, max(256, int(MEASURED_OPERATIONS / a_token)))
    rows = torch.arange(n_tokens) % len(acts)
    apart = copy.deepcopy(module).to(device)
    x_bar = apart.sae.normalize(acts[rows].to(device))
    with isolate_rng():
        gradients = [_gradients(apart, x_bar, name) for name in (WIDE, NARROW)]
        change = max(_relative(a, b) for a, b in zip(*gradients, strict=True))
        if change > MOST_CHANGE:
            return PrecisionChoice(WIDE, f"bfloat16 products change the gradient by {change:.1%}")
        wide, narrow = _seconds(apart, x_bar)
    precision = NARROW if wide > LEAST_GAIN * narrow else WIDE
    return PrecisionChoice(
        precision,
        f"a step takes {wide / narrow:.2f} times as long in float32 as with bfloat16 products, which "
        f"change the gradient by {change:.2%}",
    )


def _seconds(module: SAETraining, x_bar: Float[Tensor, "b d"]) -> tuple[float, float]:
    """Medians of a step's, wide and narrow, in turn."""
    seconds: dict[str, list[float]] = {WIDE: [], NARROW: []}
    started = time.perf_counter()
    for n_rounds in range(1, MOST_ROUNDS + 1):
        for name, found in seconds.items():
            begun = time.perf_counter()
            _gradients(module, x_bar, name)
            found.append(time.perf_counter() - begun)
        if n_rounds > 2 and time.perf_counter() - started > SECONDS:
            break
    return statistics.median(seconds[WIDE]), statistics.median(seconds[NARROW])


def _gradients(module: SAETraining, x_bar: Float[Tensor, "b d"], precision: str) -> list[Tensor]:
    """Of the objective, towards encoder and atoms."""
    sae, kind = module.sae, x_bar.device.type
    step = Step(
        x_bar,
        target=x_bar,
        W_dec=module.decoder.atoms(sae),
        how=replace(module.encoding, memory=None),
    )
    with torch.enable_grad(), torch.autocast(kind, torch.bfloat16, enabled=precision == NARROW):
        loss = torch.stack(list(module.objective(sae, step).terms.values())).sum()
    matrices = [p for p in module.parameters() if p.requires_grad and p.dim() == 2]
    found = torch.autograd.grad(loss, matrices, allow_unused=True)
    if kind == "cuda":
        torch.cuda.synchronize()
    return [grad for grad in found if grad is not None]


def _relative(exact: Tensor, other: Tensor) -> float:
    return float((other - exact).norm() / exact.norm().clamp_min(1e-30))
