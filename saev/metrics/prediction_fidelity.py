"""Prediction fidelity: predictions of an edited model against those of the untouched one."""

from jaxtyping import Float, Int
from torch import Tensor

from saev.metrics.reconstruction import SumsMetric


def kl_per_image(
    logits_bc: Float[Tensor, "b c"], clean_logits_bc: Float[Tensor, "b c"]
) -> Float[Tensor, " b"]:
    """Σ_c p_c (log p_c − log q_c) in nats, p the clean model's softmax and q the edited one's."""
    log_p = clean_logits_bc.double().log_softmax(-1)
    log_q = logits_bc.double().log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def kl_share_recovered(kl: float, kl_mean: float) -> float:
    """1 − KL(clean ‖ reconstructed) / KL(clean ‖ mean-ablated): 1 for a perfect reconstruction, 0 for
    one no better than the mean activation, nan where ablating the mean changes nothing at all."""
    return 1.0 - kl / kl_mean if kl_mean > 0 else float("nan")


class PredictionFidelity(SumsMetric):
    """KL divergence and agreement with the clean model, and accuracy and cross-entropy on labels.

    - ``kl`` = mean over images of Σ_c p_c (log p_c − log q_c) in nats, p the clean model's softmax,
      q the edited one's. Null value (edit without effect): 0.
    - ``agreement`` = share of images whose arg-max class is the clean model's. Null value: 1.
    - ``accuracy``, ``cross_entropy`` (nats) over the images with a target ≥ 0; left out when there
      are none.
    """

    kl: Tensor
    agree: Tensor
    n: Tensor
    correct: Tensor
    cross_entropy: Tensor
    n_labelled: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_sums(("kl", "agree", "n", "correct", "cross_entropy", "n_labelled"))

    def update(
        self,
        logits_bc: Float[Tensor, "b c"],
        clean_logits_bc: Float[Tensor, "b c"],
        targets_b: Int[Tensor, " b"],
    ) -> None:
        log_q = logits_bc.double().log_softmax(-1)
        self.kl += kl_per_image(logits_bc, clean_logits_bc).sum()
        predicted = logits_bc.argmax(-1)
        self.agree += (predicted == clean_logits_bc.argmax(-1)).sum()
        self.n += logits_bc.shape[0]
        labelled = (targets_b >= 0).double()
        columns = targets_b.clamp_min(0)
        self.correct += ((predicted == columns) * labelled).sum()
        self.cross_entropy -= (log_q.gather(1, columns[:, None])[:, 0] * labelled).sum()
        self.n_labelled += labelled.sum()

    def compute(self) -> dict[str, Tensor]:
        values = {"kl": self.kl / self.n, "agreement": self.agree / self.n}
        if self.n_labelled > 0:
            values["accuracy"] = self.correct / self.n_labelled
            values["cross_entropy"] = self.cross_entropy / self.n_labelled
        return values
