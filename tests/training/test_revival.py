"""Latents that were started dead come back, by AuxK and by resampling each."""

from typing import Any

import pytest
import torch

from callbacks.resample import ResampleDeadLatents
from saev.sae.atoms import FrozenAtoms
from saev.sae.objectives import GatedL1, L1Penalty, TargetL0
from saev.training.sae_module import SAETraining
from tests.fakes.planted import (
    LIGHTNING_WARNINGS,
    UNIT_GAIN,
    activations,
    fit,
    jump,
    make_module,
)

pytestmark = LIGHTNING_WARNINGS

VARIANTS: dict[str, Any] = {
    "relu": lambda: {
        "activation": "relu", "k": None, "objective": L1Penalty(0.05), "init": UNIT_GAIN,
    },
    "topk": dict,
    "batch_topk": lambda: {"activation": "batch_topk"},
    "jump_relu": lambda: {
        "activation": "jump_relu", "objective": TargetL0(1.0),
        "jump_relu": jump(threshold_lr_factor=3),
    },
    "gated": lambda: {
        "activation": "gated", "objective": GatedL1(0.1, control_rate=0.05),
        "init": UNIT_GAIN,
    },
}  # fmt: skip


def sick(**arguments: Any) -> tuple[SAETraining, torch.Tensor]:
    """A quarter of the encoder biases at −10: those never fire by themselves."""
    module = make_module(
        activations(1000), lr=5e-3, **{"dead_after_tokens": 64 * 10, "k": 6, **arguments}
    )
    ids = torch.arange(0, 64, 4)
    with torch.no_grad():
        module.sae.b_enc[ids] = -10.0
    return module, ids


def share_alive(module: SAETraining, ids: torch.Tensor) -> float:
    """Of these latents, those that fire on 4096 other tokens in the form that is exported."""
    z = module.export().encode(activations(64 * 400)[-4096:])
    return float((z[:, ids] > 0).any(0).float().mean())


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_without_treatment_they_stay_dead(name: str) -> None:
    module, ids = sick(**VARIANTS[name]())
    fit(module, activations(64 * 300))
    assert share_alive(module, ids) < 0.3


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_auxk_brings_them_back(name: str) -> None:
    module, ids = sick(aux_coefficient=1 / 32, **VARIANTS[name]())
    fit(module, activations(64 * 600))
    assert share_alive(module, ids) >= 0.9


@pytest.mark.parametrize("name", VARIANTS)
def test_resampling_brings_them_back(name: str) -> None:
    module, ids = sick(**VARIANTS[name]())
    again = ResampleDeadLatents(64 * 15, dead_after_tokens=64 * 10, pool_tokens=640, n_times=2)
    fit(module, activations(64 * 80), callbacks=[again])
    assert again.n_resampled >= 16
    assert share_alive(module, ids) >= 0.9


def test_resampling_that_does_nothing_is_refused() -> None:
    callback = ResampleDeadLatents(1000, dead_after_tokens=10, n_times=4)
    with pytest.raises(ValueError, match="longer than the run of 999 tokens"):
        callback.check(make_module(), 999)
    with pytest.raises(ValueError, match="cannot set atoms of FrozenAtoms"):
        callback.check(make_module(decoder=FrozenAtoms()), 10_000)
    callback.check(make_module(), 1000)
