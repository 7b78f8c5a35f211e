"""Metrics reported of every dictionary, the same in training and in evaluation.

Shapes: `b` tokens, `d` d_model, `s` d_sae.
"""

from jaxtyping import Float, Int
from torch import Tensor, nn
from torchmetrics import Metric

from saev.metrics.firing import FiringStatistics, MeanL0, MeanL1
from saev.metrics.reconstruction import CosineSimilarity, ExplainedVariance, NormalizedMSE

NAMES = (
    "explained_variance", "nmse", "cosine", "l0", "l1", "dead_fraction", "alive_fraction",
    "dense_fraction",
)  # fmt: skip
"""What ``ReconstructionMetrics.compute`` gives."""


class ReconstructionMetrics(nn.Module):
    """All metrics of one set of tokens; see each class for formula, source and null value.

    Args:
        d_model: width of the activations.
        d_sae: number of latents.
        shift: see ``ExplainedVariance``; the mean of the activations is a good one.
    """

    def __init__(self, d_model: int, d_sae: int, shift: Float[Tensor, " d"] | None = None) -> None:
        super().__init__()
        self.explained_variance = ExplainedVariance(d_model, shift)
        self.nmse = NormalizedMSE()
        self.cosine = CosineSimilarity()
        self.l0 = MeanL0()
        self.l1 = MeanL1()
        self.firing = FiringStatistics(d_sae)

    def update(
        self,
        x: Float[Tensor, "b d"],
        x_hat: Float[Tensor, "b d"],
        z: Float[Tensor, "b k"],
        latents: Int[Tensor, "b k"] | None = None,
    ) -> None:
        """Add tokens: raw activations, raw reconstructions, codes of all latents or, where the others are
        0, of these. No tokens is no change."""
        if len(x) == 0:
            return
        for metric in (self.explained_variance, self.nmse, self.cosine):
            metric.update(x, x_hat)
        for metric in (self.l0, self.l1):
            metric.update(z)
        self.firing.update(z, latents)

    def merge(self, others: "ReconstructionMetrics") -> None:
        """Add all tokens that others have seen on this rank."""
        for own, other in zip(self._each(), others._each(), strict=True):
            own.merge_state(other)

    def compute(self) -> dict[str, Tensor]:
        """Scalars by name, over everything seen on all ranks."""
        *means, firing = self._each()
        shares = firing.compute()
        values = [*(one.compute() for one in means), shares.dead, shares.alive, shares.dense]
        return dict(zip(NAMES, values, strict=True))

    def reset(self) -> None:
        """Forget everything seen."""
        for metric in self._each():
            metric.reset()

    def _each(self) -> tuple[Metric, ...]:
        return (self.explained_variance, self.nmse, self.cosine, self.l0, self.l1, self.firing)
