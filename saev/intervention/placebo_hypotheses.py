"""Placebo hypotheses from latents to measured rows: the same arms, the same code.

Suffixes: r draws, d width.
"""

from collections.abc import Hashable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from saev.editing.edits import parse_edit
from saev.intervention.arms.control_directions import random_directions
from saev.intervention.arms.matched_latents import AlikePool, Matched
from saev.intervention.choose.discovery import Discovery
from saev.intervention.choose.placebo_sets import placebo_sets, sets_needed, turns
from saev.intervention.choose.proposals import Latents, Proposal
from saev.intervention.hypothesis import Hypothesis
from saev.intervention.injected_effects import InjectedEffects
from saev.intervention.judge.dose_curves import RIVALS, Curves
from saev.intervention.judge.placebo import Placebo, placebo_of
from saev.intervention.judge.tally import Tally
from saev.intervention.judge.verdict import Criteria, Evidence, Verdict, measure_effects
from saev.intervention.result import ExperimentResult

OWNER = "placebo latents"
"""Of edits that serve all concepts of one set of latents."""
N_CANDIDATES = 4
"""Single latents drawn for each that is needed, where some may have no others that fire alike."""


def draw_candidates(
    file: Hypothesis, discovery: Discovery, proposals: Sequence[Proposal]
) -> list[Latents]:
    """Sets for the placebo hypotheses, more than are needed where some may have no match."""
    selected = [latents for p in proposals for latents in p.tried]
    n = sets_needed(file.placebo, len(proposals))
    if len(selected[0]) == 1 and not parse_edit(file.edit, selected[0]).has_unit:
        n *= N_CANDIDATES
    rng = np.random.default_rng([file.seed, 5])
    neighbours = AlikePool(discovery.units["sae"].stats, selected, 0, rng)
    return placebo_sets(neighbours, selected, n, rng)


def run_placebo(
    result: ExperimentResult, candidates: Sequence[Latents], criteria: Criteria
) -> Placebo:
    """Tests the placebo hypotheses on the test images of an experiment that has run."""
    file, proposals = result.setting.file, result.proposals
    tester = _Tester(result)
    wanted = sets_needed(file.placebo, len(proposals))
    kept: list[tuple[Latents, Matched]] = []
    n_unmatched = 0
    for latents in candidates:
        if len(kept) == wanted:
            break
        matched = result.plan.match(latents)
        if len(matched.draws) < result.plan.n_draws or criteria.apart(matched.ratios):
            n_unmatched += 1
        else:
            kept.append((latents, matched))
    rng = np.random.default_rng([file.seed, 6])
    rows: list[Verdict] = []
    injected: dict[float, list[Verdict]] = {}
    columns_of = turns(file.placebo, len(kept), len(proposals)) if kept else []
    left = file.power
    for number, ((latents, matched), chosen) in enumerate(zip(kept, columns_of, strict=True)):
        own = [proposals[k] for k in chosen]
        with_effect = own[: min(2, left)]
        left -= len(with_effect)
        one = _PlaceboSet(
            number, latents, matched, own, f"placebo latents {number + 1}/{len(kept)}"
        )
        found = tester.evidence(one, with_effect)
        for (concept, strength), evidence in found.items():
            row = measure_effects(concept, evidence, list(latents), criteria, len(proposals), rng)
            rows_here = rows if strength == 0 else injected.setdefault(strength, [])
            rows_here.append(row)
    return placebo_of(rows, injected, criteria, len(proposals), n_unmatched)


@dataclass(frozen=True)
class _PlaceboSet:
    number: int
    latents: Latents
    matched: Matched
    proposals: list[Proposal]
    """The concepts that it is tested on."""
    title: str


@dataclass(frozen=True)
class _Keys:
    """Jobs of one set of latents."""

    selected: Hashable
    random: list[Hashable]
    same_length: dict[str, list[Hashable]]

    @property
    def all(self) -> set[Hashable]:
        return {self.selected, *self.random, *chain(*self.same_length.values())}


class _Tester:
    """Runs one set of latents after the other; of their tallies only those of matched random latents
    are kept, as neighbouring sets share them."""

    def __init__(self, result: ExperimentResult) -> None:
        self.result, self.file = result, result.setting.file
        self.plan = copy(result.plan)  # its jobs are this one's own
        self.known: dict[Hashable, Tally] = {}
        self.doses = tuple(sorted(self.file.tradeoff.doses, reverse=True)[::3])
        self.effects = InjectedEffects(result)

    def evidence(
        self, one: _PlaceboSet, with_effect: Sequence[Proposal]
    ) -> dict[tuple[str, float], Evidence]:
        """Of each concept at strength 0, and of those with an injected effect at its strengths."""
        plan, result = self.plan, self.result
        plan.jobs = {}
        keys = self._keys(one)
        injections = self.effects.of(one.latents, with_effect)
        images_of = {
            **result.images_of,
            OWNER: np.any([result.images_of[p.concept] for p in one.proposals], 0),
        }
        tallies: dict[Hashable, Tally] = {}
        if injections:
            tallies |= result.runner.run(plan.jobs, images_of, injections, one.title)
        untrained = {p.concept: self._untrained(one, p) for p in one.proposals}
        curves = {p.concept: self._curve_keys(one, p, keys) for p in one.proposals}
        images = images_of[OWNER]
        tallies |= {key: t for key in plan.jobs if (t := self._known(key, images)) is not None}
        rest = {key: job for key, job in plan.jobs.items() if key not in tallies}
        tallies |= result.runner.run(rest, images_of, None, one.title)
        self.known |= {key: tallies[key] for key in keys.random}
        found: dict[tuple[str, float], Evidence] = {}
        for p in one.proposals:
            images = np.flatnonzero(result.images_of[p.concept])
            plain = self._evidence(one, p, keys, tallies, images)
            found[p.concept, 0.0] = _with_rungs(
                plain, tallies, untrained[p.concept], curves[p.concept], images
            )
        for name, injection in injections.items():
            concept, strength = name
            p = next(p for p in one.proposals if p.concept == concept)
            read = {key: tallies[key, name] for key in keys.all}
            images = np.arange(int(injection.images.sum()))
            found[concept, strength] = self._evidence(one, p, keys, read, images)
        return found

    def _known(self, key: Hashable, images: Bool[np.ndarray, " n"]) -> Tally | None:
        """What an edit did on these images, if it has run on all of them."""
        for found in (self.known.get(key), self.result.tallies.get(key)):
            if found is not None and not np.isnan(found.changed[images]).any():
                return found
        return None

    def _keys(self, one: _PlaceboSet) -> _Keys:
        """The edit, its matched random latents, and controls of its length."""
        plan, scale = self.plan, self.file.scale
        selected = plan.latents_key(one.latents, scale, OWNER)
        random = plan.random_keys(one.latents, OWNER)
        draws = one.matched.draws
        first = one.number * self.file.n_directions  # others for each set, as far as they go
        towards = {
            "random_latents_same_length": [
                plan.towards(plan.pool.sets[draws[(first + k) % len(draws)]])
                for k in range(self.file.n_directions)
            ],
            **{arm: list(directions) for arm, directions in self._directions(one).items()},
        }
        same_length = {
            arm: [
                plan.direction_key((arm, draw), direction, one.latents, scale, OWNER)
                for draw, direction in enumerate(directions)
            ]
            for arm, directions in towards.items()
        }
        return _Keys(selected, random, same_length)

    def _directions(self, one: _PlaceboSet) -> dict[str, Float[Tensor, "r d"]]:
        """Fresh ones: where all sets meet the same few, the error is theirs and not the test's."""
        covariance, seed = self.result.discovery.covariance, self.file.seed
        fresh = random_directions(
            covariance, self.file.n_directions, seed + 1000 * (one.number + 1)
        )
        return self.plan.others(fresh, one.latents)

    def _untrained(self, one: _PlaceboSet, p: Proposal) -> list[Hashable]:
        plan, scale, arm = self.plan, self.file.scale, "untrained_same_length"
        return [
            plan.direction_key(
                (arm, draw), plan.towards(chosen[plan.n], which), one.latents, scale, p.concept
            )
            for draw, (which, chosen) in enumerate(zip(plan.untrained, p.untrained, strict=True))
        ]

    def _curve_keys(
        self, one: _PlaceboSet, p: Proposal, keys: _Keys
    ) -> dict[str, dict[float, Hashable]]:
        """The edit and its rivals at every third dose, the largest among them, and at the tested one."""
        if not self.doses:
            return {}
        plan, scale = self.plan, self.file.scale
        towards = {
            "diffmean": plan.directions.diffmean[p.column],
            "linear_probe": plan.directions.probe[p.column],
        }
        doses = sorted({*self.doses, 1.0})
        found: dict[str, dict[float, Hashable]] = {
            "selected": {
                dose: plan.latents_key(one.latents, scale, OWNER, amount=dose) for dose in doses
            }
        }
        for arm in RIVALS:
            found[arm] = {
                dose: plan.direction_key(
                    (arm, 0), towards[arm], one.latents, scale, p.concept, dose
                )
                for dose in doses
            }
        return found

    def _evidence(
        self, one: _PlaceboSet, p: Proposal, keys: _Keys, tallies: Mapping[Hashable, Tally],
        images: np.ndarray,
    ) -> Evidence:  # fmt: skip
        """What the rung "effect" needs; ``images`` are those of the concept in the tallies."""
        clean = self.result.test.clean.take(np.flatnonzero(self.result.images_of[p.concept]))
        return Evidence(
            self.result.question(p.concept),
            clean,
            tallies[keys.selected].take(images),
            Tally.stack([tallies[key] for key in keys.random], images),
            one.matched,
            {
                arm: Tally.stack([tallies[key] for key in own], images)
                for arm, own in keys.same_length.items()
            },
        )


def _with_rungs(
    plain: Evidence,
    tallies: Mapping[Hashable, Tally],
    untrained: list[Hashable],
    curves: Mapping[str, Mapping[float, Hashable]],
    images: np.ndarray,
) -> Evidence:
    """With what the upper rungs need."""
    found = None
    if curves:
        doses = tuple(curves["selected"])
        found = Curves(
            doses,
            {
                arm: Tally.stack([tallies[key] for key in of.values()], images)
                for arm, of in curves.items()
            },
        )
    strange = Tally.stack([tallies[key] for key in untrained], images)
    return replace(plain, untrained=strange, curves=found)
