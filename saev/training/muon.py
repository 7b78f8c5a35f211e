"""Muon for matrices, Adam for everything else, as one optimiser."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic that pushes singular values towards 1; chosen by Jordan for the steepest start."""


def orthogonalize(matrix: Tensor, n_steps: int = 5) -> Tensor:
    """The matrix with its singular values pushed towards 1 (to about 0.7 to 1.2).

    Source: Jordan et al. 2024, "Muon", Newton–Schulz iteration.
    """
    a, b, c = COEFFICIENTS
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide / wide.norm().clamp_min(1e-7)
    for _ in range(n_steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if matrix.shape[0] <= matrix.shape[1] else x.T


class Muon(Optimizer):
    """Matrices: W ← W − lr·√max(1, rows/columns)·orthogonalised Nesterov momentum. Others: Adam.

    Source: Jordan et al. 2024. An orthogonal update gives every direction the same step, so ``lr``
    is ten to twenty times Adam's.

    Args:
        lr: of matrices.
        vector_lr: of everything else; None: ``lr`` / 20.

    Raises:
        ValueError: a rate that is not positive, a momentum outside [0, 1).
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 0.02,
        momentum: float = 0.95,
        vector_lr: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        share = 1 / 20 if vector_lr is None else vector_lr / lr
        if not lr > 0 or not share > 0:
            raise ValueError(f"lr and vector_lr must be positive, got {lr} and {vector_lr}.")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {momentum}.")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "vector_share": share,
            "betas": tuple(betas),
            "eps": eps,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                move = self._move_matrix if parameter.dim() == 2 else self._move_vector
                move(parameter, self.state[parameter], group)
        return loss

    @staticmethod
    def _move_matrix(parameter: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        grad, momentum = parameter.grad, state["momentum"]
        assert grad is not None
        momentum.lerp_(grad, 1 - group["momentum"])
        update = orthogonalize(grad.lerp(momentum, group["momentum"]))
        rows, columns = parameter.shape
        parameter.add_(update, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)

    @staticmethod
    def _move_vector(parameter: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        grad, (beta1, beta2) = parameter.grad, group["betas"]
        assert grad is not None
        state["step"] += 1
        n = float(state["step"])
        state["exp_avg"].lerp_(grad, 1 - beta1)
        state["exp_avg_sq"].lerp_(grad.square(), 1 - beta2)
        mean = state["exp_avg"] / (1 - beta1**n)
        scale = (state["exp_avg_sq"] / (1 - beta2**n)).sqrt() + group["eps"]
        parameter.add_(mean / scale, alpha=-group["lr"] * group["vector_share"])
