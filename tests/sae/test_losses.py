import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saev.sae.dead import auxk, candidate_rows, default_k_aux, largest_allowed
from saev.sae.objectives.objective import l1, squared_error

F64 = torch.float64


def test_squared_error_by_hand() -> None:
    x = torch.tensor([[1.0, 2.0], [0.0, 3.0]])
    x_hat = torch.tensor([[0.0, 4.0], [0.0, 0.0]])
    assert squared_error(x, x_hat).tolist() == [1 + 4, 9]


def test_l1_by_hand() -> None:
    assert l1(torch.tensor([[1.0, 0.0, 2.5], [0.0, 0.0, 0.0]])).tolist() == [3.5, 0.0]


def test_auxk_by_hand() -> None:
    # Two dead latents and one alive; k_aux = 1 keeps the larger pre-activation of the dead.
    W_enc = torch.tensor([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]])
    W_dec = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    dead = torch.tensor([True, True, False])
    x = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
    e = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    # Pre-activations of the dead: (2, 1) and (0, 3). Codes 2 on latent 0 and 3 on latent 1.
    # ê = (0, 2) and (3, 0); e − ê = (1, −2) and (−3, 2): 5 + 13. Mean e = (.5, 1): 1.25 + 1.25.
    value = auxk(x, e, W_enc, torch.zeros(3), W_dec, torch.zeros(2), dead, k_aux=1)
    assert value.item() == pytest.approx(18 / 2.5)


def problem(bias: float) -> dict:
    generator = torch.Generator().manual_seed(0)
    return {
        "x": torch.randn(6, 3, generator=generator, dtype=F64),
        "error": torch.randn(6, 3, generator=generator, dtype=F64),
        "W_enc": 0.3 * torch.randn(5, 3, generator=generator, dtype=F64),
        "b_enc": bias + 0.1 * torch.randn(5, generator=generator, dtype=F64),
        "W_dec": torch.randn(5, 3, generator=generator, dtype=F64),
        "b_dec": 0.1 * torch.randn(3, generator=generator, dtype=F64),
        "dead": torch.tensor([True, False, True, True, True]),
    }


PARAMETERS = ("W_enc", "b_enc", "W_dec", "b_dec")


@pytest.fixture(autouse=True, params=[10**9, 0], ids=["autograd", "fewer products"])
def both_paths(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saev.sae.dead.LARGE", request.param)


def test_auxk_gradients_against_finite_differences() -> None:
    given_ = problem(bias=4.0)  # all codes positive, where the ReLU is the identity

    def loss(*values: torch.Tensor) -> torch.Tensor:
        return auxk(**{**given_, **dict(zip(PARAMETERS, values, strict=True))}, k_aux=2)

    leaves = [given_[name].clone().requires_grad_() for name in PARAMETERS]
    assert torch.autograd.gradcheck(loss, leaves)


def test_reconstruction_and_l1_gradients_against_finite_differences() -> None:
    given_ = problem(bias=0.5)

    def terms(*values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        W_enc, b_enc, W_dec, b_dec = values
        z = ((given_["x"] - b_dec) @ W_enc.T + b_enc).relu()
        return squared_error(given_["x"], z @ W_dec + b_dec).mean(), l1(z).mean()

    leaves = [given_[name].clone().requires_grad_() for name in PARAMETERS]
    assert torch.autograd.gradcheck(terms, leaves)


@pytest.mark.parametrize("bias", [0.0, -0.5, 1.0])
@pytest.mark.parametrize("k_aux", [1, 3, 10])
def test_fewer_products_give_the_gradients_of_autograd(
    bias: float, k_aux: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for large in (10**9, 0):
        monkeypatch.setattr("saev.sae.dead.LARGE", large)
        leaves = {name: problem(bias)[name].requires_grad_() for name in ("x", *PARAMETERS)}
        value = auxk(**{**problem(bias), **leaves}, k_aux=k_aux)
        found.append((value, *torch.autograd.grad(3 * value, list(leaves.values()))))
    torch.testing.assert_close(*found)


def test_rows_of_candidates_have_the_gradient_of_indexing() -> None:
    ids, W = torch.tensor([4, 0, 2]), torch.randn(6, 3, dtype=F64)
    found = []
    for rows in (candidate_rows, lambda W, ids: W[ids]):
        leaf = W.clone().requires_grad_()
        for weights in (leaf, 2 * leaf):  # atoms that are made of other parameters are no leaf
            (weights.square().sum() + (rows(weights, ids) ** 3).sum()).backward()
        assert leaf.grad is not None
        found.append(leaf.grad.to_dense())
    torch.testing.assert_close(*found)


def test_sunk_latents_get_the_gradient_of_a_latent_at_zero() -> None:
    given_ = problem(bias=-10.0)
    W_enc = given_["W_enc"].clone().requires_grad_()
    b_enc = given_["b_enc"].clone().requires_grad_()
    auxk(**{**given_, "W_enc": W_enc, "b_enc": b_enc}, k_aux=4).backward()
    # All codes are 0, so ê = 0 and dL/dẑ = −2·e·W_decᵀ / ‖e − mean e‖².
    e = given_["error"]
    scale = (e - e.mean(0)).square().sum()
    grad_z = -2 * e @ given_["W_dec"].T / scale * given_["dead"]
    torch.testing.assert_close(b_enc.grad, grad_z.sum(0))
    torch.testing.assert_close(W_enc.grad, grad_z.T @ (given_["x"] - given_["b_dec"]))


def test_auxk_reaches_the_encoder_and_not_the_error() -> None:
    given_ = problem(bias=1.0)
    e = given_["error"].clone().requires_grad_()
    W_enc = given_["W_enc"].clone().requires_grad_()
    auxk(**{**given_, "error": e, "W_enc": W_enc}, k_aux=2).backward()
    assert e.grad is None and W_enc.grad is not None
    assert bool((W_enc.grad[given_["dead"]].abs().sum(1) > 0).all())
    assert bool((W_enc.grad[~given_["dead"]] == 0).all())


def test_auxk_target_does_not_depend_on_the_decoder_bias() -> None:
    """Shifting x and b_dec together leaves everything as it was: no bias in the target."""
    given_ = problem(bias=1.0)
    shift = torch.tensor([5.0, -2.0, 1.0], dtype=F64)
    moved = {**given_, "x": given_["x"] + shift, "b_dec": given_["b_dec"] + shift}
    torch.testing.assert_close(auxk(**given_, k_aux=2), auxk(**moved, k_aux=2))


def test_living_candidates_change_nothing() -> None:
    given_ = problem(bias=1.0)
    only_dead = {
        name: value[given_["dead"]] if name in ("W_enc", "b_enc", "W_dec", "dead") else value
        for name, value in given_.items()
    }
    for k_aux in (1, 2, 4, 10):
        torch.testing.assert_close(auxk(**given_, k_aux=k_aux), auxk(**only_dead, k_aux=k_aux))


def test_auxk_is_zero_where_it_means_nothing() -> None:
    given_ = problem(bias=1.0)
    none_dead = {**given_, "dead": torch.zeros(5, dtype=torch.bool)}
    no_error = {**given_, "error": torch.zeros(6, 3, dtype=F64)}
    for case in (none_dead, no_error):
        W_enc = case["W_enc"].clone().requires_grad_()
        value = auxk(**{**case, "W_enc": W_enc}, k_aux=2)
        value.backward()
        assert value.item() == 0
        assert W_enc.grad is not None and bool((W_enc.grad == 0).all())


@settings(max_examples=30, deadline=None)
@given(k=st.integers(1, 8), seed=st.integers(0, 50))
def test_the_largest_allowed_are_chosen(k: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    pre = torch.randn(4, 6, generator=generator)
    allowed = torch.rand(6, generator=generator) > 0.4
    kept = torch.where(largest_allowed(pre, allowed, k), pre, 0.0)
    for row, out in zip(pre.tolist(), kept.tolist(), strict=True):
        values = sorted((v for v, a in zip(row, allowed, strict=True) if a), reverse=True)[:k]
        assert sorted((v for v in out if v != 0), reverse=True) == values


def test_default_k_aux_is_the_nearest_power_of_two() -> None:
    assert [default_k_aux(d) for d in (1, 16, 192, 768, 1024)] == [1, 8, 128, 512, 512]
    assert math.log2(default_k_aux(1152)).is_integer()
