"""Selectors: which latents predict a class, judged on the discovery images alone.

Every selector gives one score per latent and class; the largest come first.
Suffixes: n units, s latents, c classes.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saev.errors import UserError
from saev.intervention.choose.code_table import CodeTable
from saev.intervention.hypothesis import SELECTORS

Scores = Float[np.ndarray, "s c"]

MIN_UNITS = 3
"""A latent that fires on fewer units is not scored: it would be perfect by chance."""


def f1_scores(table: CodeTable, n_classes: int) -> Scores:
    """Best F1 over all thresholds on the code; 0 for dead latents."""
    return _where_scored(table.pairs(n_classes).best_f1()[0], table, 0.0)


def average_precision_scores(table: CodeTable, n_classes: int) -> Scores:
    """Average precision; null value the class's share of units."""
    pairs = table.pairs(n_classes)
    return _where_scored(pairs.average_precision(), table, pairs.positives / max(table.n_units, 1))


def auroc_scores(table: CodeTable, n_classes: int) -> Scores:
    """P(code on a unit of the class > code on another) + ½·P(equal); null value ½."""
    return _where_scored(np.nan_to_num(table.pairs(n_classes).auroc()), table, 0.5)


def _where_scored(scores: Scores, table: CodeTable, null: float | np.ndarray) -> Scores:
    """The null value for latents with too few units, and no score for a class without any."""
    scores[table.n_fired < MIN_UNITS] = null
    scores[:, np.bincount(table.labels, minlength=scores.shape[1]) == 0] = -np.inf
    return scores


def logistic_scores(
    table: CodeTable, n_classes: int, n_steps: int = 60, ridge: float = 1e-3
) -> Scores:
    """Weight × largest code in a multinomial logistic regression on all codes, with a ridge."""
    spread = np.sqrt(np.asarray(table.codes.multiply(table.codes).mean(0))).ravel() + 1e-12
    scaled = table.codes.tocsr().multiply(1 / spread).tocoo()
    index = torch.tensor(np.stack([scaled.row, scaled.col]), dtype=torch.long)
    values = torch.tensor(scaled.data, dtype=torch.float32)
    x_ns = torch.sparse_coo_tensor(index, values, scaled.shape, check_invariants=False).coalesce()
    labels_n = torch.tensor(table.labels)
    weight_sc = torch.zeros(scaled.shape[1], n_classes, requires_grad=True)
    bias_c = torch.zeros(n_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight_sc, bias_c], max_iter=n_steps, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits_nc = torch.sparse.mm(x_ns, weight_sc) + bias_c
        loss = (
            torch.nn.functional.cross_entropy(logits_nc, labels_n)
            + ridge * weight_sc.square().sum()
        )
        loss.backward()
        return loss

    optimizer.step(closure)
    largest_s = torch.tensor(table.codes.max(0).toarray().ravel() / spread)
    return (weight_sc.detach() * largest_s[:, None]).numpy().astype(np.float64)


def effect_scores(fits: Scores, effects: Scores, among: int) -> Scores:
    """Effects of the ``among`` latents that fit each class best; −inf for all others."""
    scores = np.full(fits.shape, -np.inf)
    best = np.argsort(-fits, axis=0, kind="stable")[:among]
    np.put_along_axis(scores, best, np.take_along_axis(effects, best, 0), 0)
    return np.where(np.isneginf(fits), -np.inf, scores)


def greedy_set(
    table: CodeTable, label: int, scores: Float[np.ndarray, " s"], n: int, n_candidates: int = 50
) -> list[int]:
    """A set of ``n`` latents, grown one by one so that "one of them fires" has the best F1.

    The first is the best by ``scores``; the others come from its ``n_candidates`` best.
    """
    candidates = np.argsort(-scores, kind="stable")[: max(n_candidates, n)].tolist()
    fires_nk = table.dense(np.asarray(candidates)) > 0
    is_class_n = table.labels == label
    chosen = [0]
    while len(chosen) < n:
        union_n = np.asarray(fires_nk[:, chosen].any(1))
        joint_nk = union_n[:, None] | fires_nk
        hits_k = (joint_nk & is_class_n[:, None]).sum(0)
        f1_k = 2 * hits_k / (joint_nk.sum(0) + is_class_n.sum())
        f1_k[chosen] = -1.0
        chosen.append(int(f1_k.argmax()))
    return [candidates[k] for k in chosen]


def score_latents(
    method: str, table: CodeTable, n_classes: int, attribution: Scores | None = None
) -> Scores:
    """The scores of a selector by its name; ``attribution`` comes from a pass with gradients.

    Raises:
        UserError: there is no such selector.
    """
    if method == "attribution" and attribution is not None:
        return attribution
    methods = {
        "f1": f1_scores,
        "greedy": f1_scores,
        "auroc": auroc_scores,
        "average_precision": average_precision_scores,
        "logistic": logistic_scores,
    }
    if method not in methods:
        raise UserError(f"selector.by is {method!r}: choose one of {', '.join(SELECTORS)}")
    return methods[method](table, n_classes)


def select_latents(
    method: str, table: CodeTable, scores: Scores, label: int, n: int, alive: Int[np.ndarray, " a"]
) -> tuple[int, ...]:
    """The ``n`` alive latents for a class: the best by score, or a set grown from the best."""
    of_class = np.full(len(scores), -np.inf)
    of_class[alive] = scores[alive, label]
    if method == "greedy" and n > 1:
        return tuple(greedy_set(table, label, of_class, n))
    return tuple(int(k) for k in np.argsort(-of_class, kind="stable")[:n])
