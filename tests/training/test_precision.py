"""``trainer.precision=auto``: what it takes, what it leaves as it was."""

import copy

import pytest
import torch

from datamodules.activations.in_memory import InMemoryActivations
from saev.training import fit, precision
from saev.training.fit import build_model, chosen_precision, fit_dictionary
from saev.training.precision import NARROW, WIDE, choose_precision

D, CPU = 64, torch.device("cpu")
ACTS = torch.randn(512, D, generator=torch.Generator().manual_seed(0))


def module(model: str = "topk", **settings):
    torch.manual_seed(0)
    made = build_model(model, D, {"d_sae": 1024, "k": 8, **settings})
    made.set_data_statistics(torch.zeros(D), 1.0, None)
    made.initialize_from(ACTS)
    return made


def timed(monkeypatch: pytest.MonkeyPatch, wide: float, narrow: float) -> None:
    monkeypatch.setattr(precision, "_seconds", lambda *_: (wide, narrow))


@pytest.mark.parametrize(
    ("narrow", "expected"), [(0.5, NARROW), (0.8, NARROW), (0.95, WIDE), (5.6, WIDE)]
)
def test_the_faster_one_is_taken(
    monkeypatch: pytest.MonkeyPatch, narrow: float, expected: str
) -> None:
    timed(monkeypatch, 1.0, narrow)
    choice = choose_precision(module(), ACTS, 512, CPU)
    assert choice.precision == expected
    assert f"{1 / narrow:.2f} times as long" in choice.reason


def test_a_gradient_that_changes_refuses_the_faster_one(monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, 1.0, 0.1)
    real = precision._gradients

    def rounded(module, x_bar, name):
        found = real(module, x_bar, name)
        return [grad * 1.03 for grad in found] if name == NARROW else found

    monkeypatch.setattr(precision, "_gradients", rounded)
    choice = choose_precision(module(), ACTS, 512, CPU)
    assert choice.precision == WIDE and "change the gradient by 3.0%" in choice.reason


@pytest.mark.parametrize("model", ["topk", "batch_topk", "matryoshka", "multi_topk"])
def test_narrow_candidates_leave_the_gradients_as_they_are(model: str) -> None:
    """Values are taken anew in float32; what may differ is a candidate that the search missed."""
    made = module(model)
    x_bar = made.sae.normalize(ACTS)
    wide, narrow = (precision._gradients(made, x_bar, name) for name in (WIDE, NARROW))
    assert len(wide) >= 2
    assert all(precision._relative(a, b) < 5e-3 for a, b in zip(wide, narrow, strict=True))
    if model == "topk":
        assert all(precision._relative(a, b) < 1e-5 for a, b in zip(wide, narrow, strict=True))


def test_measuring_really_takes_place_and_leaves_no_trace() -> None:
    made = module()
    before = copy.deepcopy(made.state_dict())
    state = torch.get_rng_state()
    choice = choose_precision(made, ACTS[:100], 256, CPU)
    assert choice.precision in (WIDE, NARROW) and "times as long" in choice.reason
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in made.state_dict().items())
    assert all(p.grad is None for p in made.parameters())
    assert choose_precision(made, ACTS, 256, torch.device("meta")).precision == WIDE


def test_what_was_chosen_is_kept_with_the_dictionary(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fit, "WORTH_MEASURING", 0)
    timed(monkeypatch, 1.0, 0.5)
    many = torch.randn(20_000, D, generator=torch.Generator().manual_seed(1))  # no two atoms alike
    with caplog.at_level("INFO", logger="saev.training.fit"):
        sae = fit_dictionary(
            many, d_sae=1024, k=8, max_steps=2, batch_size=128, accelerator="cpu", progress=False
        )
    assert sae.cfg.recipe and sae.cfg.recipe["precision"] == NARROW
    assert "trainer.precision=auto: bf16-mixed" in caplog.text
    made, data = module(), InMemoryActivations(ACTS, 128)
    assert chosen_precision("32-true", made, data, "cpu") == WIDE and made.precision is None
    assert chosen_precision("auto", made, data, "cpu", devices=2) == WIDE
