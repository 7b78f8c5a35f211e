import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saev.sae.initialize import (
    geometric_median,
    initialize_,
    normalize_atoms_,
    point_atoms_at_data_,
    pool_center,
    remove_parallel_gradient_,
)


def start(encoder: str, d_sae: int = 4096, d_model: int = 32):
    W_enc, W_dec = torch.empty(d_sae, d_model), torch.empty(d_sae, d_model)
    initialize_(W_enc, W_dec, encoder, torch.Generator().manual_seed(0))
    torch.testing.assert_close(W_dec.norm(dim=1), torch.ones(d_sae))
    return W_enc, W_dec


def test_transpose_copies_the_atoms() -> None:
    W_enc, W_dec = start("transpose")
    assert torch.equal(W_enc, W_dec)


def test_unit_gain_keeps_the_length_of_relu_reconstructions() -> None:
    W_enc, W_dec = start("unit_gain")
    x = torch.randn(50, 32, generator=torch.Generator().manual_seed(1))
    x_hat = (x @ W_enc.T).relu() @ W_dec
    gain = (x_hat * x).sum(1) / x.square().sum(1)
    assert gain.mean().item() == pytest.approx(1, abs=0.02)


def test_kaiming_has_the_bound_and_spread_of_its_formula() -> None:
    W_enc, _ = start("kaiming")
    bound = (6 / 32) ** 0.5
    assert W_enc.abs().max() <= bound
    assert W_enc.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)


def test_atoms_at_data_differ_where_inputs_are_fewer() -> None:
    pool = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    W_enc, W_dec = torch.ones(50, 8), torch.ones(50, 8)
    point_atoms_at_data_(W_enc, W_dec, pool, torch.Generator().manual_seed(1))
    cosines = (
        torch.nn.functional.normalize(W_dec, dim=1) @ torch.nn.functional.normalize(W_dec, dim=1).T
    )
    assert float(cosines.fill_diagonal_(0).max()) < 1 - 1e-5
    nearest = torch.nn.functional.cosine_similarity(W_dec[:20, None], pool[None], dim=2).amax(1)
    assert bool((nearest > 0.9999).all())


def test_unknown_choice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"init\.encoder must be one of"):
        initialize_(torch.empty(2, 2), torch.empty(2, 2), "xavier")


def test_normalize_leaves_zero_rows_alone() -> None:
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    normalize_atoms_(rows)
    torch.testing.assert_close(rows, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_projected_gradient_is_orthogonal_and_differs_only_along_the_atoms(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    atoms = torch.nn.functional.normalize(torch.randn(6, 4, generator=generator), dim=1)
    grad = torch.randn(6, 4, generator=generator)
    projected = grad.clone()
    remove_parallel_gradient_(projected, atoms)
    torch.testing.assert_close((projected * atoms).sum(1), torch.zeros(6), atol=1e-5, rtol=0)
    removed = grad - projected
    torch.testing.assert_close(removed, (grad * atoms).sum(1, keepdim=True) * atoms)


def test_geometric_median_is_the_minimum_and_ignores_an_outlier() -> None:
    pool = torch.randn(101, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    median = geometric_median(pool, tolerance=1e-10, n_iterations=1000)
    summed = (pool - median).norm(dim=1).sum()
    for direction in torch.eye(3, dtype=torch.float64):
        for step in (-1e-3, 1e-3):
            assert (pool - median - step * direction).norm(dim=1).sum() > summed
    pool[0] = 1e6
    assert (geometric_median(pool) - median).norm() < 0.1
    assert pool.mean(0).norm() > 1000


def test_geometric_median_of_equal_rows_is_that_row() -> None:
    pool = torch.full((5, 2), 3.0)
    torch.testing.assert_close(geometric_median(pool), torch.full((2,), 3.0))


def test_pool_center() -> None:
    pool = torch.tensor([[0.0, 0.0], [0.0, 0.0], [3.0, 3.0]])
    assert pool_center(pool, "mean").tolist() == [1.0, 1.0]
    assert pool_center(pool, "zero").tolist() == [0.0, 0.0]
    assert pool_center(pool, "geometric_median").norm() < 0.05
