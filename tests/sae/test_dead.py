import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saev.sae import SAEConfig, SparseAutoencoder
from saev.sae.dead import advance_since_fired, dead_latents, draw_inputs, resample_rows


@settings(max_examples=40, deadline=None)
@given(
    fires=st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=30),
    cuts=st.lists(st.integers(0, 30), max_size=4),
)
def test_counting_does_not_depend_on_the_batches(fires: list, cuts: list[int]) -> None:
    firing = torch.tensor(fires)
    bounds = sorted({0, len(firing), *(min(c, len(firing)) for c in cuts)})
    since = torch.zeros(3, dtype=torch.long)
    for low, high in itertools.pairwise(bounds):
        part = firing[low:high]
        rows = torch.arange(len(part)).unsqueeze(1)
        since = advance_since_fired(since, torch.where(part, rows, -1).amax(0), len(part))
    expected = [
        next((age for age, hit in enumerate(reversed(column)) if hit), len(column))
        for column in zip(*fires, strict=True)
    ]
    assert since.tolist() == expected


def test_dead_from_the_limit_on() -> None:
    assert dead_latents(torch.tensor([0, 9, 10, 11]), 10).tolist() == [False, False, True, True]


def test_inputs_are_drawn_by_squared_loss() -> None:
    inputs = torch.arange(3.0).unsqueeze(1)
    losses = torch.tensor([1.0, 2.0, 0.0])
    generator = torch.Generator().manual_seed(0)
    firsts = [draw_inputs(inputs, losses, 1, generator).item() for _ in range(2000)]
    assert firsts.count(1.0) / 2000 == pytest.approx(4 / 5, abs=0.03)
    assert firsts.count(2.0) == 0


def test_inputs_repeat_only_when_there_are_too_few() -> None:
    inputs = torch.arange(4.0).unsqueeze(1)
    assert sorted(draw_inputs(inputs, torch.ones(4), 4).flatten().tolist()) == [0, 1, 2, 3]
    assert draw_inputs(inputs, torch.tensor([1.0, 1.0, 0.0, 0.0]), 5).max() <= 1
    assert len(draw_inputs(inputs, torch.zeros(4), 3)) == 3


def resampled(alive: torch.Tensor):
    sae = SparseAutoencoder(SAEConfig(3, 6, "relu"), torch.Generator().manual_seed(0))
    sae.set_statistics(torch.ones(3), 2.0, None)
    optimizer = torch.optim.Adam(sae.parameters(), lr=0.1)
    with torch.no_grad():
        sae.b_dec.copy_(torch.tensor([0.5, 0.0, 0.0]))
        sae.b_enc.fill_(0.3)
    sae.reconstruct(torch.randn(8, 3)).square().sum().backward()
    optimizer.step()
    before = {name: p.detach().clone() for name, p in sae.named_parameters()}
    inputs = torch.tensor([[3.0, 1.0, 1.0], [1.0, 1.0, -2.0]])
    ids = torch.tensor([4, 1])
    resample_rows(sae, optimizer, ids, inputs, alive, encoder_scale=0.2)
    return sae, optimizer, before, inputs, ids


def test_resampled_rows_follow_the_recipe_and_only_they_change() -> None:
    alive = torch.tensor([True, False, True, False, False, True])
    sae, optimizer, before, inputs, ids = resampled(alive)
    direction = 2 * (inputs - 1) - before["b_dec"]
    direction = direction / direction.norm(dim=1, keepdim=True)
    norm = before["W_enc"][alive].norm(dim=1).mean()
    lengths = before["W_dec"][alive].norm(dim=1)
    assert float((lengths - 1).abs().max()) > 0.01  # atoms are free here
    direction = direction * lengths.mean()
    torch.testing.assert_close(sae.W_dec[ids], direction)
    torch.testing.assert_close(sae.W_enc[ids], 0.2 * norm * direction / lengths.mean())
    assert bool((sae.b_enc[ids] == 0).all())
    others = torch.tensor([0, 2, 3, 5])
    for name in ("W_enc", "b_enc", "W_dec"):
        parameter = getattr(sae, name)
        assert torch.equal(parameter[others], before[name][others])
        for moment in ("exp_avg", "exp_avg_sq"):
            state = optimizer.state[parameter][moment]
            assert bool((state[ids] == 0).all())
            assert bool((state[others] != 0).any()), "moments of the others are kept"
    assert torch.equal(sae.b_dec, before["b_dec"])
    assert bool((optimizer.state[sae.b_dec]["exp_avg"] != 0).any())
    assert float(optimizer.state[sae.W_enc]["step"]) == 1


def test_resampling_when_nothing_lives_uses_all_norms() -> None:
    sae, _, before, _, ids = resampled(torch.zeros(6, dtype=torch.bool))
    expected = 0.2 * before["W_enc"].norm(dim=1).mean()
    torch.testing.assert_close(sae.W_enc[ids].norm(dim=1), expected.expand(2))


@pytest.mark.parametrize("activation", ["jump_relu", "gated"])
def test_a_resampled_latent_gets_a_new_threshold_and_magnitude(activation: str) -> None:
    """Of every tensor these latents have a row in, and of its moments; no other row changes."""
    sae = SparseAutoencoder(SAEConfig(3, 6, activation), torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name in sae.extras:
            getattr(sae, name).add_(torch.arange(6) / 10)
    optimizer = torch.optim.Adam(sae.parameters(), lr=0.1)
    sum((p * p.detach().cos()).sum() for p in sae.parameters()).backward()
    optimizer.step()
    before = {name: p.detach().clone() for name, p in sae.named_parameters()}
    ids, others = torch.tensor([4, 1]), torch.tensor([0, 2, 3, 5])
    alive = torch.tensor([True, False, True, True, False, True])
    resample_rows(sae, optimizer, ids, torch.randn(2, 3), alive, encoder_scale=1.0)
    expected = {
        "threshold": before.get("threshold", torch.zeros(6))[others].mean().expand(2),
        "r_mag": torch.zeros(2),
        "b_mag": torch.zeros(2),
    }
    for name in sae.extras:
        parameter = getattr(sae, name)
        torch.testing.assert_close(parameter[ids].detach(), expected[name])
        assert torch.equal(parameter[others], before[name][others])
        moments = optimizer.state[parameter]
        for key in ("exp_avg", "exp_avg_sq"):
            assert bool((moments[key][ids] == 0).all()) and bool((moments[key][others] != 0).all())
