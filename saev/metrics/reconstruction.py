"""Reconstruction metrics as float64 sums, which add up over batches and ranks.

Shapes: `b` tokens, `d` d_model.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

ROUNDING = 1e-12
"""Of the sum of squares: a variation below it is what float64 leaves of a difference."""


class SumsMetric(Metric):
    """A metric whose states are float64 sums."""

    full_state_update = False
    is_differentiable = False

    def __init__(self) -> None:
        super().__init__(compute_with_cache=False)  # merge_state would leave a stale value

    def add_sums(self, names: Iterable[str], shape: tuple[int, ...] = ()) -> None:
        for name in names:
            default = torch.zeros(shape, dtype=torch.float64)
            self.add_state(name, default, dist_reduce_fx="sum")


class ExplainedVariance(SumsMetric):
    """EV = 1 − Σ‖x − x̂‖² / Σ‖x − μ‖², μ the per-dimension mean of everything seen.

    Both sums run over all tokens and dimensions before the division. Null value: predicting μ gives
    0; perfect reconstruction gives 1; there is no lower bound. Undefined (nan) where x is constant, also
    up to rounding, and for a single token.
    Source: the fraction of variance explained, as R² of a multi-output regression with the
    variance-weighted average.

    Args:
        d_model: width of x.
        shift: subtracted from x while summing, for precision where the mean is far longer than the
            spread; it changes no result. It must be the same on all ranks.
    """

    higher_is_better = True
    n: Tensor
    total: Tensor
    squares: Tensor
    squared_errors: Tensor
    shift: Tensor

    def __init__(self, d_model: int, shift: Float[Tensor, " d"] | None = None) -> None:
        super().__init__()
        self.add_sums(("n", "squares", "squared_errors"))
        self.add_sums(("total",), (d_model,))
        start = torch.zeros(d_model) if shift is None else shift.detach()
        self.register_buffer("shift", start.double(), persistent=False)

    def update(self, x: Float[Tensor, "b d"], x_hat: Float[Tensor, "b d"]) -> None:
        """Add tokens; both in the same units."""
        shifted = x.double() - self.shift
        self.n += len(x)
        self.total += shifted.sum(0)
        self.squares += shifted.square().sum()
        self.squared_errors += (x.double() - x_hat.double()).square().sum()

    def compute(self) -> Float[Tensor, ""]:
        variation = self.squares - self.total.square().sum() / self.n
        varies = variation > ROUNDING * self.squares
        return torch.where(varies, 1 - self.squared_errors / variation, torch.nan)


class NormalizedMSE(SumsMetric):
    """NMSE = mean_i ‖x_i − x̂_i‖² / ‖x_i‖², in raw units.

    Null value: predicting 0 gives 1; perfect reconstruction gives 0. Tokens of norm 0 are left out.
    Source: Gao et al. 2024 (arXiv 2406.04093), released loss.
    """

    higher_is_better = False
    n: Tensor
    ratios: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_sums(("n", "ratios"))

    def update(self, x: Float[Tensor, "b d"], x_hat: Float[Tensor, "b d"]) -> None:
        """Add tokens; both in raw units."""
        power = x.double().square().sum(-1)
        error = (x.double() - x_hat.double()).square().sum(-1)
        counted = power > 0
        self.n += counted.sum()
        self.ratios += torch.where(counted, error / power, 0.0).sum()

    def compute(self) -> Float[Tensor, ""]:
        return self.ratios / self.n


class CosineSimilarity(SumsMetric):
    """Mean over tokens of ⟨x, x̂⟩ / (‖x‖·‖x̂‖), in raw units; 0 for a token where either is 0.

    Null value: 0 for a reconstruction that has nothing to do with x; 1 for one parallel to it. Note
    that the mean activation alone scores high where the mean is long.
    """

    higher_is_better = True
    n: Tensor
    cosines: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_sums(("n", "cosines"))

    def update(self, x: Float[Tensor, "b d"], x_hat: Float[Tensor, "b d"]) -> None:
        """Add tokens; both in raw units."""
        self.n += len(x)
        self.cosines += torch.cosine_similarity(x.double(), x_hat.double(), dim=-1).sum()

    def compute(self) -> Float[Tensor, ""]:
        return self.cosines / self.n
