"""M6, transfer: how a dictionary does on images of another kind than it was trained on.

Suffixes: n images of the other kind, m test images among them, s latents, r bootstrap draws.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from saev.metrics.visaebench.fvu import UnexplainedVariance
from saev.metrics.visaebench.sparse_probing_curve import ProbingCurve, sparse_probing_curve


class TransferParts(NamedTuple):
    """Four shares, each larger where the dictionary does better."""

    reconstruction: float | Float[np.ndarray, " r"]
    """1 − FVU, at least 0 and at most 1."""
    coverage: float | Float[np.ndarray, " r"]
    """Latents that fire on both kinds, of those that fire on the kind it was trained on; 1 where none
    does."""
    overlap: float | Float[np.ndarray, " r"]
    """The same, of those that fire on either kind; 0 where none does."""
    accuracy: float | Float[np.ndarray, " r"]
    """Of a probe on the ten latents that tell the classes best."""

    @property
    def average(self) -> float | Float[np.ndarray, " r"]:
        """The benchmark's number."""
        return (self.reconstruction + self.coverage + self.overlap + self.accuracy) / 4


class Transfer(NamedTuple):
    """To one kind of images; the benchmark takes the mean of ``value`` over EuroSAT and DTD."""

    own_fires_s: Bool[np.ndarray, " s"]
    fires_ns: Bool[np.ndarray, "n s"]
    unexplained: UnexplainedVariance
    probe: ProbingCurve

    @property
    def parts(self) -> TransferParts:
        """As they are."""
        drawn = self.parts_under(np.ones((1, len(self.fires_ns))))
        return TransferParts(*(np.asarray(part).item() for part in drawn))

    @property
    def value(self) -> float:
        """Mean of the four parts."""
        return float(self.parts.average)

    def resampled(self, weight_rn: Float[np.ndarray, "r n"]) -> Float[np.ndarray, " r"]:
        """The value under weights of the images; the probe stays.

        A draw without the one image that fires a latent loses the latent, so draws lie below the
        value in coverage and overlap.
        """
        return np.asarray(self.parts_under(weight_rn).average)

    def parts_under(self, weight_rn: Float[np.ndarray, "r n"]) -> TransferParts:
        """Each part under weights of the images."""
        fires_rs = weight_rn.astype(np.float32) @ self.fires_ns.astype(np.float32) > 0
        both = (fires_rs & self.own_fires_s).sum(1)
        either, own = (fires_rs | self.own_fires_s).sum(1), self.own_fires_s.sum()
        return TransferParts(
            np.clip(1 - self.unexplained.resampled(weight_rn), 0, 1),
            both / own if own else np.ones(len(weight_rn)),
            np.where(either > 0, both / np.maximum(either, 1), 0.0),
            self.probe.resampled(weight_rn[:, self.probe.test_m]),
        )

    @property
    def chance(self) -> TransferParts:
        """Null values: x̂ = 0; as many latents drawn at random on each kind; the most frequent class.

        The second is an approximation for the overlap: J of the mean number in common.
        """
        s = len(self.own_fires_s)
        own, other = int(self.own_fires_s.sum()), int(self.fires_ns.any(0).sum())
        both = own * other / s
        overlap = both / (own + other - both) if own + other else 0.0
        return TransferParts(0.0, other / s if own else 1.0, overlap, self.probe.most_frequent)


def transfer_score(
    own_fires_s: Bool[np.ndarray, " s"],
    codes_ns: Float[np.ndarray, "n s"],
    unexplained: UnexplainedVariance,
    label_n: Int[np.ndarray, " n"],
    *,
    k: int = 10,
    **options: Any,
) -> Transfer:
    """(clip(1 − FVU) + coverage + overlap + accuracy) / 4 on image codes of the other kind.

    ``own_fires_s`` says which latents fire on any image of the kind that the dictionary was trained
    on; ``unexplained`` is :func:`saev.metrics.visaebench.fvu.fvu` on the others, normalised by the
    first kind's mean and deviation, where its flaw bites: their mean is not 0. The probe ranks on
    training images alone, other than M4. ``options`` go to ``sparse_probing_curve``. Range [0, 1].

    Null value: ``Transfer.chance.average``; :func:`transfer_null` permutes labels, which moves the
    accuracy alone. Source: ViSAEBench 0.1.0, M6.
    """
    options = {"ranked_on": "train", **options}
    probe = sparse_probing_curve(codes_ns, label_n, ks=(min(k, codes_ns.shape[1]),), **options)
    return Transfer(own_fires_s, np.asarray(codes_ns) > 0, unexplained, probe)


def transfer_null(
    own_fires_s: Bool[np.ndarray, " s"],
    codes_ns: Float[np.ndarray, "n s"],
    unexplained: UnexplainedVariance,
    label_n: Int[np.ndarray, " n"],
    rng: np.random.Generator,
    **options: Any,
) -> Transfer:
    """The same with the labels of other images."""
    return transfer_score(own_fires_s, codes_ns, unexplained, rng.permutation(label_n), **options)
