"""Calibration: false positives under shuffled labels and for random latents."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from saev.intervention.arms.arms import ArmPlan
from saev.intervention.judge.tally import Tally
from saev.intervention.judge.verdict import SUPPORTED, Evidence, Verdict, decide, judge
from saev.stats.tests import tie_broken_p, uniformity_p

SHUFFLED = "shuffled: "
"""Before the concept's name, where latents were chosen on shuffled labels."""
CLOSEST = 20
"""Draws per hypothesis that take the place of its latents."""


@dataclass(frozen=True)
class Calibration:
    """Error rates of the procedure on this very dictionary, head and set of images."""

    n_hypotheses: int
    """Hypotheses with latents chosen on shuffled labels, corrected as one file's would be."""
    n_supported: int
    share_supported: float
    false_discovery_rate: float
    """Share of hypotheses on shuffled labels among all that are supported when the file's own and as
    many of those are judged together; mean over the repeats."""
    n_below_alpha: int
    """With p ≤ α before correction, by the rank among random latents alone."""
    uniformity_p: float
    """Kolmogorov–Smirnov: p-values of random latents in the place of selected ones, against
    uniform; small means that draws which match closely do not act like those which match less, so
    that p depends on how close a match the dictionary can give."""
    p_values: list[float]
    """Of the random latents."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def calibrate(
    evidence: Mapping[str, Evidence],
    verdicts: Sequence[Verdict],
    plan: ArmPlan,
    tallies: Mapping[Hashable, Tally],
    images_of: Mapping[str, Bool[np.ndarray, " n"]],
) -> Calibration:
    """Judges every repeat as the file's own hypotheses are, then together with them.

    Without the random directions, which would each need a length of its own: leaving that hurdle
    out can only raise the share that is supported.
    """
    file = plan.file
    pools = _pools(plan, tallies, images_of, file.scale)
    n_supported = n_below = n = 0
    false_shares = []
    for selections in plan.repeats:
        repeat, latents_of = {}, {}
        for p in plan.proposals:
            latents, p_selection = selections[p.column]
            null = pools[p.concept].take(np.array(plan.pool.match(latents).draws))
            tally = tallies[plan.repeat_key(p, selections)]
            repeat[SHUFFLED + p.concept] = replace(
                evidence[p.concept], selected=tally.take(np.flatnonzero(images_of[p.concept])),
                random=null, directions={}, best_of=1, p_selection=p_selection,
            )  # fmt: skip
            latents_of[SHUFFLED + p.concept] = list(latents)
        found = judge(repeat, latents_of, file.alpha, file.smallest_effect)
        n += len(found)
        n_supported += len(_supported(found))
        n_below += sum(row.p <= file.alpha for row in found)
        together = _supported(decide([*verdicts, *found], file.alpha, file.smallest_effect))
        false = [name for name in together if name.startswith(SHUFFLED)]
        false_shares.append(len(false) / max(len(together), 1))
    effects = {c: one.question.effects(pools[c], one.clean) for c, one in evidence.items()}
    draws = {c: plan.matched[c].draws for c in evidence}
    p_values = random_p_values(effects, draws, np.random.default_rng([file.seed, 4]))
    return Calibration(
        n, n_supported, n_supported / max(n, 1), float(np.mean(false_shares)), n_below,
        uniformity_p(np.array(p_values)), p_values,
    )  # fmt: skip


def _supported(rows: Sequence[Verdict]) -> list[str]:
    return [row.hypothesis for row in rows if row.verdict == SUPPORTED]


def _pools(
    plan: ArmPlan,
    tallies: Mapping[Hashable, Tally],
    images_of: Mapping[str, Bool[np.ndarray, " n"]],
    scale: float,
) -> dict[str, Tally]:
    """Every drawn set, on each hypothesis's images; one stack where they share all images."""
    every = [tallies[plan.latents_key(latents, scale, None)] for latents in plan.pool.sets]
    stacks: dict[bytes, Tally] = {}
    for images in images_of.values():
        if images.tobytes() not in stacks:
            stacks[images.tobytes()] = Tally.stack(every, np.flatnonzero(images))
    return {concept: stacks[images.tobytes()] for concept, images in images_of.items()}


def random_p_values(
    effects: Mapping[str, Float[np.ndarray, " r"]],
    draws: Mapping[str, Sequence[int]],
    rng: np.random.Generator,
) -> list[float]:
    """p of random sets in the place of selected ones, by the very null that those are held to.

    Every hypothesis gives, in turn and no set twice, the draws that match its latents best, as far as
    that goes the most similar ones; each is ranked among the hypothesis's other draws. Uniform when how
    well a draw matches says nothing of its effect; else the matching is too loose for p to be trusted.
    Ties are broken at random, for sets that change nothing at all would pile up.

    Args:
        effects: of every set of the pool, per concept.
        draws: per concept the numbers of its draws, best match first.
    """
    p_values: list[float] = []
    taken: set[int] = set()
    for _ in range(CLOSEST):
        for concept, own in draws.items():
            closest = next((r for r in own if r not in taken), None)
            if closest is None:
                continue
            taken.add(closest)
            null = effects[concept][[r for r in own if r != closest]]
            p_values.append(tie_broken_p(float(effects[concept][closest]), null, rng))
    return p_values
