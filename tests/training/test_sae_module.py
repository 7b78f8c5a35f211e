import functools
import inspect
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from saev.metrics import ReconstructionMetrics
from saev.sae import SparseAutoencoder
from saev.sae.dead import auxk
from saev.sae.initialize import best_gain
from saev.sae.objectives import L0Penalty, L1Penalty
from saev.training.arguments import Initialization, JumpReLUTraining, LearningRate
from saev.training.sae_module import SAETraining
from tests.fakes.planted import (
    INIT,
    LIGHTNING_WARNINGS,
    Batch,
    Recorder,
    activations,
    atoms,
    decaying,
    fit,
    make_module,
    model_config,
)

pytestmark = LIGHTNING_WARNINGS

ADAM = functools.partial(torch.optim.Adam, lr=1e-3)
AUX = {"aux_coefficient": 1 / 32, "dead_after_tokens": 500}


def weights(module: SAETraining) -> dict[str, Tensor]:
    return {name: t.clone() for name, t in module.state_dict().items()}


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def sink_a_quarter(module: SAETraining) -> Tensor:
    """Biases far below all inputs: these latents never fire on their own."""
    ids = torch.arange(0, module.sae.cfg.d_sae, 4)
    with torch.no_grad():
        module.sae.b_enc[ids] = -10.0
    return ids


# --- arguments -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"k": 65}, "model.k must not exceed the number of latents d_sae=64"),
        ({"k": 0}, "model.k must be at least 1"),
        ({"d_sae": 0}, "model.d_sae must give at least 1 latent, got 0"),
        ({"d_sae": None}, "model.d_sae and model.expansion must be given"),
        ({"d_sae": None, "expansion": -1}, "model.expansion must give"),
        ({"activation": "gelu"}, "model.activation must be one of"),
        ({"aux_coefficient": math.nan}, "model.aux_coefficient must be 0 or more"),
        ({"aux_coefficient": -1.0}, "model.aux_coefficient must be 0 or more"),
        ({"learning_rate": decaying(0, -1)}, "model.learning_rate.warmup_steps must be 0 or more"),
        ({"learning_rate": decaying(1.5)}, r"learning_rate.decay_fraction must lie in \[0, 1\]"),
        ({"learning_rate": decaying(0, speed=2)}, "model.learning_rate.speed is unknown"),
        ({"activation": "group_max", "k": 4}, "model.activation .*not trained here"),
        ({"learning_rate": {}}, "model.learning_rate is not complete.*warmup_steps"),
        ({"dead_after_tokens": 0}, "model.dead_after_tokens must be at least 1"),
        ({"k_aux": 0}, "model.k_aux must be at least 1"),
        ({"init": {**INIT, "bias": "median"}}, "model.init.bias must be one of"),
        ({"init": {**INIT, "encoder": "xavier"}}, "model.init.encoder must be one of"),
        ({"objective": {"coefficient": 1.0}}, "model.objective must name its class.*coefficient"),
        ({"optimizer": functools.partial(torch.optim.Adam, lr=-0.1)}, "model.optimizer.lr.*-0.1"),
        (
            {"optimizer": functools.partial(torch.optim.Adam, lr=0.1, betas=(2, 0))},
            "cannot be built",
        ),
        ({"optimizer": functools.partial(torch.optim.Adam, speed=1)}, "cannot be built"),
        ({"optimizer": functools.partial(torch.optim.SGD, lr="auto")}, "auto is a law for Adam"),
        ({"optimizer": functools.partial(torch.optim.Adam, lr="best")}, "positive number or auto"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict, part: str) -> None:
    settings: dict[str, Any] = {
        "d_model": 16,
        "optimizer": ADAM,
        "activation": "topk",
        "dead_after_tokens": 500,
        "init": INIT,
        "k": 4,
        "d_sae": 64,
        **arguments,
    }
    with pytest.raises(ValueError, match=part) as caught:
        SAETraining(**settings)
    assert "\n" not in str(caught.value)


def test_the_automatic_rate_is_trained_with_and_kept() -> None:
    module = make_module(lr="auto", learning_rate=decaying(0.25))
    module.tokens_per_step = 64
    fit(module, activations(64 * 4))
    expected = 0.17 * (64 / 64) ** 0.5 / 256**0.25
    assert module.export().cfg.recipe["lr"] == pytest.approx(expected)
    assert module.trainer.optimizers[0].defaults["lr"] == pytest.approx(expected)
    with pytest.raises(ValueError, match="lr=auto needs to know the end"):
        make_module(lr="auto").check_length(-1)


def test_the_encoder_learns_at_its_own_rate() -> None:
    module = make_module(lr=1e-3, learning_rate=decaying(0, encoder_factor=0.5))
    before = weights(module)
    fit(module, activations(64))
    moved = {name: (value - before[name]).abs().max() for name, value in weights(module).items()}
    # the first step of Adam moves each number by its rate
    assert float(moved["sae.W_enc"]) == pytest.approx(5e-4, rel=0.01)
    assert float(moved["sae.b_enc"]) == pytest.approx(1e-3, rel=0.01)
    with pytest.raises(ValueError, match="encoder_factor must be positive"):
        make_module(learning_rate=decaying(0, encoder_factor=0))


@pytest.mark.parametrize("activation", ["topk", "batch_topk"])
def test_the_best_gain_is_the_start(activation: str) -> None:
    init = {**INIT, "encoder": "best_gain", "atoms": "data"}
    module = make_module(activation=activation, init=init)
    x = activations(1000)
    assert best_gain(module.sae, x) == pytest.approx(1, abs=1e-4)
    assert best_gain(make_module(activation=activation).sae, x) < 0.9


def test_width_is_a_multiple_or_given() -> None:
    assert SAETraining(16, ADAM, "topk", 500, INIT, k=4, expansion=8).sae.cfg.d_sae == 128
    assert SAETraining(16, ADAM, "topk", 500, INIT, k=4, expansion=8, d_sae=40).sae.cfg.d_sae == 40


@pytest.mark.parametrize("name", ["topk", "relu"])
def test_configs_build_a_module_and_name_only_its_arguments(name: str) -> None:
    cfg = model_config(name)
    module = instantiate(cfg, d_model=16)
    assert isinstance(module, SAETraining) and module.sae.cfg.activation == name
    allowed = set(inspect.signature(SAETraining).parameters) | {"_target_"}
    assert set(cfg) <= allowed


def test_nodes_are_dataclasses_or_their_fields_and_plain_in_the_recipe() -> None:
    fields = {
        "init": {"encoder": "kaiming", "bias": "zero"},
        "learning_rate": decaying(0.5, decay_shape="cosine"),
        "jump_relu": {"start_threshold": 0.2, "bandwidth": 2.0},
    }
    objects = {
        "init": Initialization(**fields["init"]),
        "learning_rate": LearningRate(**fields["learning_rate"]),
        "jump_relu": JumpReLUTraining(**fields["jump_relu"]),
    }
    given = {"activation": "jump_relu", "k": None, "objective": L0Penalty(1.0)}
    first, second = (make_module(**given, **nodes) for nodes in (fields, objects))
    assert_same(weights(first), weights(second))
    recipe = first.export().cfg.recipe
    assert recipe == second.export().cfg.recipe == json.loads(json.dumps(recipe))
    assert recipe["init"] == {**fields["init"], "atoms": "random"}
    assert recipe["jump_relu"]["threshold_lr_factor"] == 1
    assert make_module().hparams["jump_relu"] is None


# --- before training -------------------------------------------------------------------------


def test_decoder_bias_starts_at_the_centre_of_the_normal_tokens() -> None:
    module = SAETraining(16, ADAM, "topk", 500, INIT, k=4, expansion=16)
    pool = activations(200)
    module.set_data_statistics(torch.ones(16), 2.0, 100.0)
    module.initialize_from(torch.cat([pool, torch.full((1, 16), 1e4)]))
    torch.testing.assert_close(module.sae.b_dec, 2 * (pool.mean(0) - 1))


def test_a_pool_without_normal_tokens_is_refused() -> None:
    module = SAETraining(16, ADAM, "topk", 500, INIT, k=4, expansion=16)
    module.set_data_statistics(torch.ones(16), 2.0, 0.001)
    with pytest.raises(ValueError, match=r"raise tokens\.max_norm"):
        module.initialize_from(activations(10))


def test_decay_needs_an_end() -> None:
    module = make_module(learning_rate=decaying(0.5))
    with pytest.raises(ValueError, match=r"set trainer\.max_steps"):
        fit_without_end(module)


def fit_without_end(module: SAETraining) -> None:
    from torch.utils.data import DataLoader, IterableDataset

    class Endless(IterableDataset):
        def __iter__(self):
            while True:
                yield Batch(activations(8), 1)

    import lightning as L

    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(Endless(), batch_size=None))


# --- training --------------------------------------------------------------------------------


@pytest.mark.slow
def test_planted_features_are_found() -> None:
    features = atoms(32)
    data = activations(64 * 600, features, n_active=2)
    module = make_module(data, lr=1e-2, k=2, d_sae=48, learning_rate=decaying(0.25), **AUX)
    fit(module, data)
    cosines = module.sae.W_dec @ features.T
    # An untrained dictionary of this size reaches 0.6 on average.
    assert cosines.amax(0).mean() > 0.95
    x = data[-1000:]
    metrics = ReconstructionMetrics(16, 48)
    metrics.update(x, module.sae.decode(module.sae.encode(x)).detach(), module.sae.encode(x))
    assert metrics.compute()["explained_variance"] > 0.9


def test_logged_loss_is_the_sum_of_its_parts_by_definition() -> None:
    data = activations(64)
    module = make_module(
        data, aux_coefficient=0.5, dead_after_tokens=1, objective=L1Penalty(0.2), k_aux=3
    )
    module.tokens_since_fired.fill_(5)
    sae = module.export()
    trainer = fit(module, data, log_every_n_steps=1)
    logged = {name: float(v) for name, v in trainer.callback_metrics.items()}
    x_bar, z = sae.normalize(data), sae.encode(data)
    error = x_bar - (z @ sae.W_dec + sae.b_dec)
    aux = auxk(
        x_bar,
        error,
        sae.W_enc,
        sae.b_enc,
        sae.W_dec,
        sae.b_dec,
        torch.ones(64, dtype=torch.bool),
        3,
    )
    expected = {
        "train/reconstruction": error.square().sum(1).mean(),
        "train/sparsity": 0.2 * z.sum(1).mean(),
        "train/aux": 0.5 * 16 * aux,
        "train/explained_variance": 1
        - error.square().sum() / (x_bar - x_bar.mean(0)).square().sum(),
        "train/l0": (z > 0).sum(1).float().mean(),
        "train/l1": z.sum(1).mean(),
        "train/lr": 3e-3,
        "train/l1_coefficient": 0.2,
    }
    for name, value in expected.items():
        assert logged[name] == pytest.approx(float(value), rel=1e-5), name
    parts = ("train/reconstruction", "train/sparsity", "train/aux")
    assert logged["train/loss"] == pytest.approx(sum(logged[p] for p in parts), rel=1e-6)


def test_atoms_stay_unit_and_the_gradient_along_them_is_gone() -> None:
    seen = []

    class Watch(SAETraining):
        def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            assert self.sae.W_dec.grad is not None
            grad, atoms_sd = self.sae.W_dec.grad, self.sae.W_dec.detach()
            seen.append(float((grad * atoms_sd).sum(1).abs().max() / grad.abs().max()))

    module = Watch(16, ADAM, "topk", 500, INIT, k=4, d_sae=64)
    fit(module, activations(64 * 5))
    assert len(seen) == 5 and max(seen) < 1e-5
    torch.testing.assert_close(module.sae.W_dec.norm(dim=1), torch.ones(64))


class Gradients(SAETraining):
    """Notes the weights each step starts from and the gradients it ends with."""

    def prepare(self) -> "Gradients":
        self.before: list[dict[str, Tensor]] = []
        self.gradients: list[dict[str, Tensor]] = []
        return self

    def on_after_backward(self) -> None:
        super().on_after_backward()
        self.before.append(weights(self))
        named = self.named_parameters()
        self.gradients.append({n: p.grad.clone() for n, p in named if p.grad is not None})


def test_each_step_starts_from_fresh_gradients() -> None:
    data = activations(64 * 4)

    def make() -> Gradients:
        return Gradients(16, ADAM, "topk", 500, INIT, k=4, d_sae=64).prepare()

    module = make()
    fit(module, data)
    for step in (1, 3):
        fresh = make()
        fresh.load_state_dict(module.before[step])
        fresh.before.clear()
        fit(fresh, data[64 * step : 64 * (step + 1)])
        for name, gradient in module.gradients[step].items():
            # The counters of dead latents are a step further, which a loss without AuxK ignores.
            torch.testing.assert_close(fresh.gradients[0][name], gradient, msg=name)


def test_one_optimiser_lives_through_validation_and_the_end_of_the_data() -> None:
    data = activations(64 * 10)
    module, made = make_module(data), []

    def once(groups: Any) -> torch.optim.Optimizer:
        made.append(torch.optim.Adam(groups, lr=1e-3, fused=True))
        return made[-1]

    module._make_optimizer = once
    fit(module, data, val=data[:64], max_steps=25, max_epochs=3, val_check_interval=5)
    assert len(made) == 1
    assert {float(state["step"]) for state in made[0].state.values()} == {25}


def test_gradient_clipping_works_with_the_fused_optimiser_in_mixed_precision() -> None:
    module = make_module(**AUX)
    norms = []

    class Watch(torch.optim.Adam):
        def step(self, closure=None):
            def watched():
                loss = closure()
                grads = [p.grad for group in self.param_groups for p in group["params"]]
                norms.append(float(torch.stack([g.norm() for g in grads]).norm()))
                return loss

            return super().step(watched)

    module._make_optimizer = functools.partial(Watch, lr=1e-3, fused=True)
    fit(module, activations(64 * 5), precision="bf16-mixed", gradient_clip_val=0.5)
    assert norms == pytest.approx([0.5] * 5, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kwargs", [AUX, {"activation": "relu", "k": None, "objective": L1Penalty(0.3)}]
)
def test_bfloat16_products_train_almost_as_well(kwargs: dict) -> None:
    data = activations(64 * 150)
    explained = []
    for precision in ("32-true", "bf16-mixed"):
        trainer = fit(make_module(data, **kwargs), data, val=data[:2000], precision=precision)
        explained.append(float(trainer.callback_metrics["val/explained_variance"]))
    assert explained[0] > 0.5 and abs(explained[1] - explained[0]) < 0.005


def test_learning_rate_and_sparsity_follow_their_schedules() -> None:
    module = make_module(
        activation="relu",
        k=None,
        objective=L1Penalty(0.5, warmup_steps=5),
        lr=0.01,
        learning_rate=decaying(0.5, warmup_steps=2),
    )
    logger = Recorder()
    fit(module, activations(64 * 8), logger=logger, log_every_n_steps=1)
    assert logger.column("train/lr") == pytest.approx(
        [0.005, 0.01, 0.01, 0.01, 0.01, 0.0075, 0.005, 0.0025]
    )
    assert logger.column("train/l1_coefficient") == pytest.approx(
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5, 0.5]
    )


def test_two_runs_with_one_seed_are_equal_and_another_is_not() -> None:
    data = activations(64 * 20)
    runs = []
    for seed in (0, 0, 1):
        module = make_module(data, **AUX)
        if seed:
            torch.manual_seed(seed)
            module = SAETraining(16, ADAM, "topk", init=INIT, k=8, d_sae=64, **AUX)
        fit(module, data)
        runs.append(weights(module))
    assert_same(runs[0], runs[1])
    assert not torch.equal(runs[0]["sae.W_enc"], runs[2]["sae.W_enc"])


def test_logging_interval_does_not_change_the_trajectory() -> None:
    data = activations(64 * 30)
    runs = []
    for interval in (1, 7, 1000):
        module = make_module(data, **AUX)
        sink_a_quarter(module)
        logger = Recorder()
        fit(module, data, log_every_n_steps=interval, logger=logger)
        runs.append(weights(module))
        assert len(logger.column("train/loss")) == 30 // interval
    assert_same(runs[0], runs[1])
    assert_same(runs[0], runs[2])


# --- dead latents ----------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [16, 64, 320])
def test_death_does_not_depend_on_the_batch_size(batch_size: int) -> None:
    data = activations(640)
    module = make_module(data, lr=1e-12)  # the same codes whatever the steps
    sink_a_quarter(module)
    fit(module, data, batch_size)
    fires = module.sae.encode(data) > 0
    rows = torch.arange(640).unsqueeze(1)
    last = torch.where(fires, rows, -1).amax(0)
    assert torch.equal(module.tokens_since_fired, 639 - last)
    assert int((module.tokens_since_fired == 640).sum()) >= 16


def test_auxk_left_out_by_plan_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run in which AuxK is computed over all latents at every step is the reference."""
    data = activations(64 * 80)
    runs = []
    for always in (False, True):
        module = make_module(data, aux_coefficient=1 / 32, dead_after_tokens=2500)
        sink_a_quarter(module)
        if always:
            from saev.training.schedules import AuxPlan

            plan = lambda *_: AuxPlan(10**9, 10**9, 64)  # noqa: E731
            monkeypatch.setattr("saev.training.sae_module.make_plan", plan)
        fit(module, data)
        runs.append(weights(module))
    for name, value in runs[0].items():
        torch.testing.assert_close(value, runs[1][name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("sparse", [True, False])
def test_large_dictionaries_train_their_dead_latents_alike(
    sparse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, runs = activations(64 * 30), []
    for large in (10**9, 0):
        monkeypatch.setattr("saev.sae.dead.LARGE", large)
        module = make_module(data, **AUX)
        module.encoding = replace(module.encoding, sparse=sparse)
        ill = sink_a_quarter(module)
        start = module.sae.W_enc[ill].detach().clone()
        fit(module, data)
        assert not torch.allclose(module.sae.W_enc[ill], start)  # AuxK was at work
        runs.append(weights(module))
    for name, value in runs[0].items():
        torch.testing.assert_close(value, runs[1][name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_auxk_brings_sunk_latents_back() -> None:
    data = activations(64 * 400)
    shares = []
    for aux, n_steps in ((0.0, 100), (1 / 32, 400)):
        module = make_module(data, aux_coefficient=aux, dead_after_tokens=640)
        ill = sink_a_quarter(module)
        fit(module, data[: 64 * n_steps])
        shares.append(float((module.sae.encode(data[-4000:]) > 0).any(0)[ill].float().mean()))
    assert shares[0] == 0 and shares[1] >= 0.9


# --- validation ------------------------------------------------------------------------------


@pytest.mark.parametrize("sparse", [True, False])
def test_validation_reports_normal_and_all_tokens(
    sparse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saev.training.sae_module.CODES_AT_ONCE", 64 * 10)  # several pieces a batch
    data = activations(320)
    data[::10] *= 30
    module = make_module(data)
    module.encoding = replace(module.encoding, sparse=sparse)
    limit = float(data[1::10].norm(dim=1).max() * 2)
    module.set_data_statistics(module.sae.mean.clone(), float(module.sae.scale), limit)
    trainer = fit(module, data[:64], val=data)
    sae = module.export()
    normal = sae.is_normal(data)
    assert int((~normal).sum()) == 32
    for stage, x in (("val", data[normal]), ("val_all", data)):
        slow = ReconstructionMetrics(16, 64)
        slow.update(x, sae.decode(sae.encode(x)), sae.encode(x))
        for name, value in slow.compute().items():
            logged = float(trainer.callback_metrics[f"{stage}/{name}"])
            assert logged == pytest.approx(float(value), rel=1e-5), (stage, name)


# --- checkpoints and export --------------------------------------------------------------------


def keep(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, "{step}", every_n_train_steps=20, save_top_k=-1)


def checkpointed(tmp_path: Path, data: Tensor, **kwargs: Any) -> tuple[SAETraining, Path]:
    module = make_module(data, learning_rate=decaying(0.5), **kwargs)
    sink_a_quarter(module)
    fit(module, data, enable_checkpointing=True, callbacks=[keep(tmp_path)])
    return module, tmp_path / "step=20.ckpt"


@pytest.mark.parametrize(
    "kwargs",
    [
        AUX,
        {"activation": "relu", "k": None, "objective": L1Penalty(0.3, warmup_steps=30)},
    ],
)
def test_a_resumed_run_equals_the_undisturbed_one(tmp_path: Path, kwargs: dict) -> None:
    data = activations(64 * 45)
    whole, path = checkpointed(tmp_path, data, **kwargs)
    # Another seed: everything must come from the checkpoint.
    resumed = make_module(data, learning_rate=decaying(0.5), **kwargs)
    with torch.no_grad():
        resumed.sae.W_enc.normal_()
    again = {"enable_checkpointing": True, "callbacks": [keep(tmp_path)]}
    fit(resumed, data, start=20, ckpt_path=str(path), **again)
    assert_same(weights(whole), weights(resumed))


def test_checkpoint_opens_without_pickle_and_remembers(tmp_path: Path) -> None:
    data = activations(64 * 20)
    module, path = checkpointed(tmp_path, data, **AUX)
    content = torch.load(path, weights_only=True)
    assert content["hyper_parameters"]["k"] == 8
    assert "optimizer" not in content["hyper_parameters"]
    module.set_data_statistics(module.sae.mean.clone(), float(module.sae.scale), 12.5)
    saved: dict[str, Any] = {}
    module.on_save_checkpoint(saved)
    loaded = SAETraining.load_from_checkpoint(path, optimizer=ADAM)
    loaded.on_load_checkpoint(saved)
    assert loaded.sae.cfg.max_norm == 12.5
    assert_same(weights(loaded), {**weights(module)})


def test_export_has_the_same_codes_and_a_life_of_its_own(tmp_path: Path) -> None:
    data = activations(64 * 10)
    module = make_module(data, **AUX)
    fit(module, data)
    sae = module.export(layer=3, manifest_id="abc", tokens={"which": "patch"})
    assert torch.equal(sae.encode(data), module.sae.encode(data))
    loaded = SparseAutoencoder.from_pretrained(sae.save_pretrained(tmp_path))
    assert torch.equal(loaded.encode(data), module.sae.encode(data))
    assert loaded.cfg.layer == 3 and loaded.cfg.manifest_id == "abc"
    assert loaded.cfg.recipe["k"] == 8 and loaded.cfg.recipe["dead_after_tokens"] == 500
    with torch.no_grad():
        module.sae.W_enc.zero_()
    assert bool((sae.W_enc != 0).any())
