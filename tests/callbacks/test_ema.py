from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks.ema import EMAWeights
from tests.fakes.planted import LIGHTNING_WARNINGS, activations, fit, make_module

pytestmark = LIGHTNING_WARNINGS


class History(L.Callback):
    """Keeps the weights after every step, and those that validation sees."""

    def __init__(self) -> None:
        self.trained: list[dict[str, torch.Tensor]] = []
        self.validated: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer, pl_module, *args) -> None:
        self.trained.append(_copy(pl_module))

    def on_validation_batch_start(self, trainer, pl_module, *args) -> None:
        self.validated.append(_copy(pl_module))


def _copy(module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in module.sae.named_parameters()}


def slow_average(history: list[dict[str, torch.Tensor]], decay: float) -> dict[str, torch.Tensor]:
    """Σ decay^(n−i)·w_i over Σ decay^(n−i)."""
    shares = [decay ** (len(history) - 1 - i) for i in range(len(history))]
    mean = {
        name: sum(share * w[name] for share, w in zip(shares, history, strict=True)) / sum(shares)
        for name in history[0]
    }
    mean["W_dec"] = torch.nn.functional.normalize(mean["W_dec"], dim=1)
    return mean


def test_the_average_is_validated_and_exported_and_training_does_not_notice() -> None:
    data = activations(64 * 20)
    alone = make_module(data)
    fit(alone, data)
    module, history = make_module(data), History()
    fit(
        module, data, callbacks=[EMAWeights(0.9), history], val=data[:64],
        val_check_interval=10, check_val_every_n_epoch=None,
    )  # fmt: skip
    for name, weights in alone.sae.state_dict().items():
        assert torch.equal(module.sae.state_dict()[name], weights), name
    sae = module.export()
    for name, expected in slow_average(history.trained, 0.9).items():
        torch.testing.assert_close(sae.state_dict()[name], expected)
    for name, expected in slow_average(history.trained[:10], 0.9).items():
        torch.testing.assert_close(history.validated[0][name], expected)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(64))
    assert not torch.equal(sae.W_enc, module.sae.W_enc)


def test_it_survives_an_interruption_and_checkpoints_hold_trainings_own_weights(
    tmp_path: Path,
) -> None:
    data = activations(64 * 20)

    def callbacks() -> list[L.Callback]:
        keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=10, save_top_k=-1)
        return [EMAWeights(0.9), keep]

    whole = make_module(data)
    fit(whole, data, enable_checkpointing=True, callbacks=callbacks())
    resumed = make_module(data)
    path = tmp_path / "step=10.ckpt"
    again = {"enable_checkpointing": True, "callbacks": callbacks()}
    fit(resumed, data, start=10, ckpt_path=str(path), **again)
    for name, weights in whole.export().state_dict().items():
        assert torch.equal(resumed.export().state_dict()[name], weights), name


def test_a_run_that_is_resumed_where_it_ended_exports_the_average_too(tmp_path: Path) -> None:
    data = activations(64 * 5)
    whole, resumed = make_module(data), make_module(data)
    run = fit(whole, data, callbacks=[EMAWeights(0.9)])
    run.save_checkpoint(tmp_path / "last.ckpt")
    again = [EMAWeights(0.9)]
    fit(resumed, data, start=5, ckpt_path=str(tmp_path / "last.ckpt"), callbacks=again)
    expected, found = whole.export().state_dict(), resumed.export().state_dict()
    assert not torch.equal(expected["W_enc"], whole.sae.W_enc)
    for name, weights in expected.items():
        assert torch.equal(found[name], weights), name


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_wrong_decay_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="decay must lie strictly between 0 and 1"):
        EMAWeights(decay)


def test_it_needs_a_dictionary() -> None:
    with pytest.raises(TypeError, match="works on SAETraining"):
        EMAWeights(0.9).on_fit_end(L.Trainer(logger=False), L.LightningModule())
