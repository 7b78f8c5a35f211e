"""Archetypal atoms stay combinations of few data points under Adam; the projection that keeps them."""

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saev.sae import SAEConfig, SparseAutoencoder
from saev.sae.atoms import ArchetypalAtoms, FrozenAtoms, UnitAtoms, project_to_simplex_
from saev.sae.encode import Encoding
from saev.sae.objectives import Objective, Step

D, S, K, N_STEPS = 24, 48, 2, 20
F64 = torch.float64


def sparse_mixtures(n: int) -> Tensor:
    """Sums of two of 64 directions, in normalised units."""
    generator = torch.Generator().manual_seed(1)
    features = F.normalize(torch.randn(64, D, generator=generator), dim=1)
    chosen = torch.rand(n, 64, generator=generator).argsort(1)[:, :2]
    strengths = torch.rand(n, 2, generator=generator) + 0.5
    x = torch.zeros(n, 64).scatter(1, chosen, strengths) @ features
    x = x - x.mean(0)
    return x * (D / x.square().sum(1).mean()).sqrt()


def explained(x_bar: Tensor, decoder: UnitAtoms, lr: float) -> tuple[float, Tensor | None]:
    """After training, and the effective points of the rows after it."""
    sae = SparseAutoencoder(SAEConfig(D, S, "topk", K), torch.Generator().manual_seed(0))
    decoder.attach(sae)
    decoder.start_from(sae, x_bar)
    trained = [p for p in (*sae.parameters(), *decoder.parameters()) if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=lr)
    effective = None
    for number in range(N_STEPS):
        batch = x_bar[256 * (number % 16) :][:256]
        optimizer.zero_grad()
        step = Step(batch, batch, decoder.atoms(sae), Encoding())
        Objective()(sae, step).terms["reconstruction"].backward()
        optimizer.step()
        decoder.after_step(sae)
        if isinstance(decoder, ArchetypalAtoms) and number == N_STEPS - 1:
            effective = 1 / decoder.mixture.detach().square().sum(1)
    error = (x_bar - sae.reconstruct(x_bar)).square().sum()
    return 1 - float(error.detach() / x_bar.square().sum()), effective


def test_archetypal_rows_stay_few_points_and_explain_more_than_frozen_atoms() -> None:
    """A clamp and a division by the sum spread each row over 700 of 2,048 points."""
    x_bar = sparse_mixtures(4096)
    archetypal, effective = explained(x_bar, ArchetypalAtoms(2048, relaxation=0.1), lr=1e-3)
    assert effective is not None and float(effective.max()) < 10
    assert archetypal > explained(x_bar, FrozenAtoms(), lr=1e-3)[0] + 0.05


@settings(max_examples=30, deadline=None)
@given(
    spread=st.sampled_from([0.0, 1e-3, 0.1, 1.0, 30.0]),
    n=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_projection_to_the_simplex_against_sorting(spread: float, n: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = spread * torch.randn(5, n, generator=generator, dtype=F64)
    rows[:, 0] += 1
    falling = rows.sort(1, descending=True).values
    bounds = (falling.cumsum(1) - 1) / torch.arange(1, n + 1)
    expected = (rows - bounds.amax(1, keepdim=True)).clamp_min(0)
    project_to_simplex_(rows)
    torch.testing.assert_close(rows, expected)
