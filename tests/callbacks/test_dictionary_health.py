import pytest
import torch

from callbacks.dictionary_health import DictionaryHealth
from saev.training.sae_module import StepOutput
from tests.fakes.planted import LIGHTNING_WARNINGS, Recorder, activations, fit, make_module

pytestmark = LIGHTNING_WARNINGS


def test_what_is_logged_is_what_the_module_is() -> None:
    data = activations(640)
    module = make_module(data, dead_after_tokens=100)
    with torch.no_grad():
        module.sae.b_enc[::4] = -10.0
        module.sae.b_enc[1] = 50.0
    logger = Recorder()
    fit(module, data, callbacks=[DictionaryHealth()], logger=logger, log_every_n_steps=2)
    assert len(logger.column("train/gradient_norm")) == 5
    dead = float((module.tokens_since_fired >= 100).float().mean())
    assert dead >= 0.25
    assert logger.column("train/dead_fraction")[-1] == pytest.approx(dead)
    assert logger.column("train/alive_fraction")[-1] == pytest.approx(1 - dead)
    assert logger.column("train/dense_fraction")[-1] >= 1 / 64
    for name in ("train/atom_norm_min", "train/atom_norm_max"):
        assert logger.column(name) == pytest.approx([1] * 5, abs=1e-6)


def test_gradient_norm_is_the_one_before_clipping() -> None:
    data = activations(64)
    norms = []
    for clip in (None, 1e-3):
        logger = Recorder()
        module = make_module(data)
        health = DictionaryHealth()
        fit(
            module,
            data,
            callbacks=[health],
            logger=logger,
            log_every_n_steps=1,
            gradient_clip_val=clip,
        )
        norms += logger.column("train/gradient_norm")
        if clip is None:
            # The gradient of that step is still there.
            grads = [p.grad.norm() for p in module.parameters() if p.grad is not None]
            assert norms == pytest.approx([float(torch.stack(grads).norm())], rel=1e-5)
    assert norms[0] == pytest.approx(norms[1])


def test_dense_share_covers_the_last_one_to_two_windows() -> None:
    health = DictionaryHealth(window_tokens=100)
    held = []
    for step in range(7):
        health._add(StepOutput(torch.zeros(50), torch.tensor([step, 0])), 50)
        held.append((sum(health._n_tokens), int(sum(counts[0] for counts in health._counts))))
    # Tokens held, and the sum of the step numbers that are in the window.
    assert held == [(50, 0), (100, 1), (150, 3), (200, 6), (150, 9), (200, 14), (150, 15)]


def test_an_empty_window_is_refused() -> None:
    with pytest.raises(ValueError, match="window_tokens must be at least 1"):
        DictionaryHealth(0)
