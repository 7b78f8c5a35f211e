"""The gradients of jumps against the derivative of a smoothed expectation."""

import pytest
import torch
from torch import Tensor

from saev.sae.straight_through import heaviside, jump_relu

F64 = torch.float64
THETA, WIDTH = 1.5, 0.4


def even_grid(n: int = 200_001, low: float = 0.0, high: float = 3.0) -> Tensor:
    """Pre-activations spread evenly: density 1/(high − low), so expectations are sums."""
    return torch.linspace(low, high, n, dtype=F64).unsqueeze(1)


def expected(function, theta: float) -> float:
    """E f(pre; θ) over the grid."""
    return float(function(even_grid(), torch.tensor([theta], dtype=F64), WIDTH).mean())


@pytest.mark.parametrize("function", [jump_relu, heaviside])
def test_threshold_gradient_is_the_derivative_of_the_expectation(function) -> None:
    theta = torch.tensor([THETA], dtype=F64, requires_grad=True)
    function(even_grid(), theta, WIDTH).mean().backward()
    h = 0.05
    slope = (expected(function, THETA + h) - expected(function, THETA - h)) / (2 * h)
    assert float(theta.grad) == pytest.approx(slope, rel=2e-3)


@pytest.mark.parametrize(("function", "height"), [(jump_relu, THETA), (heaviside, 1.0)])
def test_both_sides_of_the_threshold_count_alike(function, height: float) -> None:
    """Fed with codes instead of pre-activations the lower side would be lost."""
    for side in (-1, 1):
        theta = torch.tensor([THETA], dtype=F64, requires_grad=True)
        pre = torch.tensor([[THETA + side * WIDTH / 4]], dtype=F64)
        function(pre, theta, WIDTH).sum().backward()
        assert float(theta.grad) == pytest.approx(-height / WIDTH)
        theta.grad = None
        outside = torch.tensor([[THETA + side * WIDTH * 0.51]], dtype=F64)
        function(outside, theta, WIDTH).sum().backward()
        assert float(theta.grad) == 0


def test_values_and_input_gradients() -> None:
    theta = torch.tensor([1.0, 1.0], dtype=F64)
    pre = torch.tensor([[0.9, 1.1], [-3.0, 4.0]], dtype=F64, requires_grad=True)
    z = jump_relu(pre, theta, WIDTH)
    assert z.tolist() == [[0, 1.1], [0, 4.0]]
    z.sum().backward()
    assert pre.grad is not None and pre.grad.tolist() == [[0, 1], [0, 1]]
    leaf = pre.detach().clone().requires_grad_()
    on = heaviside(leaf, theta.clone().requires_grad_(), WIDTH)
    assert on.tolist() == [[0, 1], [0, 1]]
    on.sum().backward()
    assert leaf.grad is None


def test_the_jump_reaches_the_input_where_asked() -> None:
    """Moving the input up by δ is moving the threshold down by δ, apart from the slope of 1."""
    theta = torch.tensor([1.0], dtype=F64, requires_grad=True)
    pre = torch.tensor([[0.9], [1.1], [3.0]], dtype=F64, requires_grad=True)
    jump_relu(pre, theta, WIDTH, to_input=True).sum().backward()
    torch.testing.assert_close(
        pre.grad, torch.tensor([[1 / WIDTH], [1 + 1 / WIDTH], [1.0]], dtype=F64)
    )
    pre.grad = None
    heaviside(pre, theta, WIDTH, to_input=True).sum().backward()
    torch.testing.assert_close(pre.grad, torch.tensor([[1 / WIDTH]] * 2 + [[0.0]], dtype=F64))


def test_a_negative_threshold_acts_as_zero_and_still_learns_nothing_wrong() -> None:
    theta = torch.tensor([-0.5], requires_grad=True)
    pre = torch.tensor([[-0.2], [0.2]])
    assert jump_relu(pre, theta, 0.1).tolist() == [[0.0], [pytest.approx(0.2)]]


@pytest.mark.parametrize("shape", [(4,), (2, 4), (2, 3, 4)])
def test_any_leading_shape(shape: tuple[int, ...]) -> None:
    theta = torch.ones(4, requires_grad=True)
    jump_relu(torch.ones(shape) * 1.01, theta, 1.0).sum().backward()
    assert theta.grad is not None and theta.grad.shape == (4,)
    n_tokens = torch.ones(shape).numel() / 4
    torch.testing.assert_close(theta.grad, -n_tokens * torch.ones(4))
