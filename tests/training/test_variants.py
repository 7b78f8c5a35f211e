"""Every variant trained for a few steps through the module, exported and read back."""

import functools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from saev.sae import SparseAutoencoder
from saev.sae.atoms import ArchetypalAtoms, FreeAtoms, FrozenAtoms
from saev.sae.objectives import (
    GatedL1,
    L0Penalty,
    L1Penalty,
    Matryoshka,
    MultiTopK,
    PAnneal,
    TanhPenalty,
    TargetL0,
)
from saev.sae.threshold import calibrate_threshold_
from saev.training.sae_module import SAETraining
from tests.fakes.planted import (
    INIT,
    LIGHTNING_WARNINGS,
    UNIT_GAIN,
    activations,
    decaying,
    fit,
    jump,
    make_module,
    model_config,
)

pytestmark = LIGHTNING_WARNINGS

CONF = Path(__file__).parents[2] / "conf" / "model"
AUX = {"aux_coefficient": 1 / 32, "dead_after_tokens": 500}
RELU: dict[str, Any] = {"activation": "relu", "k": None, "init": UNIT_GAIN}
JUMP: dict[str, Any] = {"activation": "jump_relu", "jump_relu": jump(threshold_lr_factor=10)}
VARIANTS: dict[str, Any] = {
    "relu": lambda: {**RELU, "objective": L1Penalty(0.3)},
    "relu_free_norm": lambda: {
        **RELU, "decoder": FreeAtoms(0.1), "objective": L1Penalty(0.3), "subtract_b_dec": False,
    },
    "p_anneal": lambda: {**RELU, "objective": PAnneal(0.3, p_end=0.2)},
    "topk": lambda: AUX,
    "topk_data": lambda: {**AUX, "init": {**INIT, "atoms": "data"}},
    "multi_topk": lambda: {"objective": MultiTopK(3, 0.125), "k": 4},
    "frozen": lambda: {"decoder": FrozenAtoms()},
    "archetypal": lambda: {"decoder": ArchetypalAtoms(100, relaxation=0.1), **AUX},
    "batch_topk": lambda: {"activation": "batch_topk", **AUX},
    "batch_topk_fraction": lambda: {"activation": "batch_topk", "k": 2.5},
    "matryoshka": lambda: {
        "activation": "batch_topk", "k": 4, "objective": Matryoshka([0.25, 0.5, 1]), **AUX,
    },
    "matryoshka_random": lambda: {"k": 4, "objective": Matryoshka(n_random=3)},
    "jump_relu": lambda: {**JUMP, "objective": TargetL0(1.0), **AUX},
    "jump_relu_l0": lambda: {**JUMP, "k": None, "objective": L0Penalty(0.01)},
    "jump_relu_tanh": lambda: {
        **JUMP, "k": None, "objective": TanhPenalty(0.1, 4.0, 3e-6, 1.0), "decoder": FreeAtoms(1.0),
        "jump_relu": jump(start_threshold=0.1, threshold_lr_factor=10, jump_to_input=True),
    },
    "gated": lambda: {"activation": "gated", "objective": GatedL1(1.0, control_rate=0.1)},
}  # fmt: skip


FAST = ("relu", "topk", "batch_topk", "jump_relu", "gated", "matryoshka")
"""Each activation, and an objective over several reconstructions; the others are slow tests."""


def weights(module: SAETraining) -> dict[str, Tensor]:
    return {name: t.clone() for name, t in module.state_dict().items()}


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def explained(sae: SparseAutoencoder, x: Tensor) -> float:
    error = (x - sae.reconstruct(x)).square().sum()
    return float(1 - error / (x - x.mean(0)).square().sum())


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in VARIANTS],
)
def test_trains_exports_and_comes_back_the_same(name: str, tmp_path: Path) -> None:
    data = activations(64 * 60)
    module = make_module(data, lr=1e-2, **VARIANTS[name]())
    before = explained(module.export(), data)
    fit(module, data)
    sae = module.export()
    if sae.cfg.activation == "batch_topk":
        calibrate_threshold_(sae, [data])
    assert explained(sae, data) > before + 0.03
    loaded = SparseAutoencoder.from_pretrained(sae.save_pretrained(tmp_path))
    for name_, tensor in sae.state_dict().items():
        assert torch.equal(loaded.state_dict()[name_], tensor), name_
    for x in (data[:60], data[:60].reshape(3, 4, 5, -1)):
        assert torch.equal(loaded.encode(x), sae.encode(x))
        assert torch.equal(loaded.reconstruct(x), sae.reconstruct(x))
    assert loaded.cfg == sae.cfg
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(64))
    if module.decoder.unit and sae.cfg.activation != "batch_topk":
        assert torch.equal(sae.encode(data), module.sae.encode(data))
    else:
        torch.testing.assert_close(
            sae.decode(sae.encode(data)),
            module.sae.decode(module.sae.encode(data)),
            atol=10.0 if sae.cfg.activation == "batch_topk" else 1e-4,
            rtol=1e-4,
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        name if name in ("topk", "jump_relu", "gated", "matryoshka_random")
        else pytest.param(name, marks=pytest.mark.slow)
        for name in VARIANTS
    ],
)  # fmt: skip
def test_a_resumed_run_equals_the_undisturbed_one(name: str, tmp_path: Path) -> None:
    data = activations(64 * 30)
    keep = functools.partial(
        ModelCheckpoint, tmp_path, "{step}", every_n_train_steps=15, save_top_k=-1
    )
    whole = make_module(data, learning_rate=decaying(0.5), **VARIANTS[name]())
    fit(whole, data, enable_checkpointing=True, callbacks=[keep()])
    resumed = make_module(data, learning_rate=decaying(0.5), **VARIANTS[name]())
    with torch.no_grad():
        for tensor in resumed.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.1)  # everything must come from the checkpoint
    path = str(tmp_path / "step=15.ckpt")
    again = {"enable_checkpointing": True, "callbacks": [keep()], "max_steps": 30}
    fit(resumed, data, start=15, ckpt_path=path, **again)
    assert_same(weights(whole), weights(resumed))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["batch_topk", "jump_relu", "gated", "matryoshka_random"])
def test_logging_does_not_change_the_trajectory(name: str) -> None:
    data = activations(64 * 20)
    runs = []
    for interval in (1, 1000):
        module = make_module(data, **VARIANTS[name]())
        fit(module, data, log_every_n_steps=interval)
        runs.append(weights(module))
    assert_same(*runs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["batch_topk", "jump_relu", "gated"])
def test_the_aim_is_met_on_other_tokens(name: str) -> None:
    """Within 15 % of k, in the form that inference takes."""
    data = activations(64 * 500)
    module = make_module(
        data, lr=1e-2, learning_rate=decaying(0.25), **{"k": 6, **VARIANTS[name]()}
    )
    fit(module, data[: 64 * 480])
    sae = module.export()
    if name == "batch_topk":
        calibrate_threshold_(sae, [data[:5000]])
    l0 = float((sae.encode(data[64 * 480 :]) > 0).sum(1).float().mean())
    assert l0 == pytest.approx(6, rel=0.15)


def test_the_threshold_during_training_lags_only_a_few_steps() -> None:
    data = activations(64 * 100)
    module = make_module(data, lr=1e-2, activation="batch_topk", k=6, learning_rate=decaying(0.5))
    fit(module, data)
    l0 = float((module.sae.encode(data) > 0).sum(1).float().mean())
    assert l0 == pytest.approx(6, rel=0.15)


def test_thresholds_stay_float32_in_a_narrower_dictionary() -> None:
    for name in ("batch_topk", "jump_relu"):
        module = make_module(**VARIANTS[name]())
        with torch.no_grad():
            module.sae.threshold.fill_(1.00390625 + 0.001)
        narrow = module.export().bfloat16()
        assert narrow.threshold.dtype == torch.float32 and narrow.W_enc.dtype == torch.bfloat16
        assert torch.equal(narrow.threshold, module.sae.threshold)
        assert narrow.encode(activations(5)).dtype == torch.bfloat16


@pytest.mark.slow
def test_l0_follows_the_knob() -> None:
    data = activations(64 * 150)
    found = []
    for k in (2, 4, 8, 16):
        module = make_module(data, lr=1e-2, **{**VARIANTS["jump_relu"](), "k": k})
        fit(module, data)
        found.append(float((module.sae.encode(data) > 0).sum(1).float().mean()))
    assert found == sorted(found) and found[-1] > 3 * found[0]


@pytest.mark.slow
def test_relu_traces_a_monotone_curve() -> None:
    data = activations(64 * 150)
    curve = []
    for coefficient in (0.05, 0.15, 0.5, 1.5, 4.0):
        module = make_module(data, lr=1e-2, **RELU, objective=L1Penalty(coefficient))
        fit(module, data)
        sae = module.export()
        l0 = float((sae.encode(data) > 0).sum(1).float().mean())
        curve.append((l0, explained(sae, data)))
    assert curve == sorted(curve, reverse=True)
    assert [ev for _, ev in curve] == sorted((ev for _, ev in curve), reverse=True)


def test_data_start_points_atoms_at_inputs() -> None:
    data = activations(500)
    module = make_module(data, init={**INIT, "atoms": "data"})
    centred = module.sae.normalize(data) - module.sae.b_dec
    cosines = module.sae.W_dec @ torch.nn.functional.normalize(centred, dim=1).T
    assert bool((cosines.amax(1) > 0.9999).all())
    assert len(torch.unique(module.sae.W_dec, dim=0)) == 64


def test_start_threshold_gives_the_aim_on_the_pool() -> None:
    data = activations(1000)
    module = make_module(data, k=5, **{**JUMP, "objective": TargetL0(1.0)})
    assert int((module.sae.encode(data) > 0).sum()) == 5000
    paper = make_module(data, k=None, **{**JUMP, "objective": L0Penalty(1)})
    assert float(paper.sae.threshold.detach()[0]) == pytest.approx(0.001 * math.sqrt(16))


def test_folding_keeps_what_is_reconstructed() -> None:
    module = make_module(**VARIANTS["jump_relu_tanh"]())
    with torch.no_grad():
        module.sae.W_dec.mul_(torch.rand(64, 1) + 0.5)
        module.sae.threshold.copy_(torch.rand(64))
    x = activations(100)
    sae = module.export()
    torch.testing.assert_close(sae.reconstruct(x), module.sae.reconstruct(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["jump_relu_tanh", "relu_free_norm"])
def test_an_atom_of_norm_zero_is_exported_without_nan(name: str, tmp_path: Path) -> None:
    module = make_module(**VARIANTS[name]())
    with torch.no_grad():
        module.sae.W_dec[3] = 0.0
    sae = SparseAutoencoder.from_pretrained(module.export().save_pretrained(tmp_path))
    assert all(bool(tensor.isfinite().all()) for tensor in sae.state_dict().values())
    x = activations(50)
    assert bool((sae.W_dec[3] == 0).all())
    torch.testing.assert_close(sae.reconstruct(x), module.sae.reconstruct(x), atol=1e-4, rtol=1e-4)


def test_the_learning_rate_law() -> None:
    data = activations(64 * 2)
    for d_sae, expected in ((64, 0.01), (256, 0.005)):
        module = make_module(
            data, lr=0.01, d_sae=d_sae, learning_rate=decaying(0, reference_width=64)
        )
        trainer = fit(module, data, log_every_n_steps=1)
        assert float(trainer.callback_metrics["train/lr"]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"activation": "jump_relu"}, "model.objective must be given for activation=jump_relu"),
        ({"activation": "gated"}, "model.objective must be given for activation=gated"),
        (
            {"activation": "jump_relu", "k": 0, "objective": TargetL0(1.0)},
            "model.k must be positive",
        ),
        (
            {"activation": "gated", "k": -1, "objective": GatedL1(1, 0.01)},
            "model.k must be positive",
        ),
        ({"activation": "batch_topk", "k": None}, "model.k must be a positive number"),
        ({"k": 2.5}, "whole for activation=topk"),
        ({"activation": "batch_topk", "k": 65}, "model.k must not exceed"),
        ({"k": 5, "objective": Matryoshka([0.0625, 1])}, "narrowest prefix of 4 latents"),
        (
            {"activation": "jump_relu", "objective": L0Penalty(1)},
            "model.jump_relu must be given for activation=jump_relu",
        ),
        ({"jump_relu": jump(start_threshold=0.1)}, "jump_relu is for activation=jump_relu.*0.1"),
        ({"jump_relu": jump(jump_to_input=True)}, "jump_relu is for activation=jump_relu.*True"),
        (
            {**JUMP, "objective": L0Penalty(1), "jump_relu": jump(start_threshold=-1.0)},
            "start_threshold must be 0 or more",
        ),
        ({**JUMP, "jump_relu": jump(bandwidth=0)}, "bandwidth must be positive"),
        (
            {**JUMP, "jump_relu": jump(threshold_lr_factor=-1)},
            "threshold_lr_factor must be positive",
        ),
        ({"decoder": FreeAtoms(0.1)}, "lets atoms have any norm"),
        (
            {**JUMP, "objective": L0Penalty(1), "decoder": FreeAtoms(0.1)},
            "lets atoms have any norm",
        ),
        (
            {"decoder": FrozenAtoms(), "init": {**INIT, "atoms": "data"}},
            "init.atoms=data has no effect",
        ),
        ({"init": {**INIT, "atoms": "pca"}}, "model.init.atoms must be one of"),
        (
            {"learning_rate": decaying(0.5, decay_shape="step")},
            "learning_rate.decay_shape must be one",
        ),
        ({"learning_rate": decaying(0, reference_width=0)}, "reference_width must be at least 1"),
    ],
)
def test_combinations_without_sense_are_refused(arguments: dict, part: str) -> None:
    with pytest.raises(ValueError, match=part) as caught:
        make_module(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", [p.stem for p in sorted(CONF.glob("*.yaml")) if "\n  - sae\n" in p.read_text()]
)
def test_every_config_builds(name: str) -> None:
    module = instantiate(model_config(name), d_model=64)
    assert isinstance(module, SAETraining) and module.sae.cfg.d_sae == 1024
    recipe = module.export().cfg.recipe
    assert recipe["objective"]["kind"] and recipe["decoder"]["kind"]
