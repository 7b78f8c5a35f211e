"""Result of a controlled experiment: verdicts, and every effect that they rest on."""

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool

from saev.intervention.arms.arms import ArmPlan
from saev.intervention.arms.runner import Runner, TestSet
from saev.intervention.choose.discovery import Discovery
from saev.intervention.choose.proposals import Proposal
from saev.intervention.judge.calibration import Calibration
from saev.intervention.judge.dose_curves import Curves
from saev.intervention.judge.mean_tradeoff import (
    HypothesisCurves,
    MeanTradeoff,
    mean_tradeoff,
)
from saev.intervention.judge.placebo import Placebo
from saev.intervention.judge.tally import Question, Tally
from saev.intervention.judge.verdict import CONTROLS, Evidence, Verdict
from saev.intervention.setting import Setting

if TYPE_CHECKING:
    import pandas as pd


TRADEOFF_ARMS = (
    "selected",
    "diffmean",
    "linear_probe",
    "untrained_same_length",
    "random_latents_same_length",
)
"""Arms of the trade-off curves, at one length; of several draws the first few."""


@dataclass(repr=False)
class ExperimentResult:
    """Everything an experiment found."""

    setting: Setting
    discovery: Discovery
    proposals: list[Proposal]
    left_out: dict[str, str]
    """Concepts that were proposed and could not be tested, with the reason."""
    registered_sha256: str
    plan: ArmPlan
    test: TestSet
    images_of: dict[str, Bool[np.ndarray, " n"]]
    """Test images of each hypothesis."""
    runner: Runner
    tallies: dict[Hashable, Tally]
    verdicts: list[Verdict] = field(default_factory=list)
    calibration: Calibration | None = None
    placebo: Placebo | None = None

    def __repr__(self) -> str:
        counts = Counter(verdict.verdict for verdict in self.verdicts)
        found = ", ".join(f"{n} {name}" for name, n in sorted(counts.items()))
        return (
            f"ExperimentResult({len(self.verdicts)} hypotheses: {found}; "
            f"{self.test.n_images} test images)"
        )

    def to_frame(self) -> "pd.DataFrame":
        """A row per hypothesis: what ``verdict.json`` says of it."""
        import pandas as pd

        return pd.DataFrame([verdict.to_dict() for verdict in self.verdicts])

    def question(self, concept: str) -> Question:
        """What is asked of a concept; its peers are those that the test images show enough of."""
        file, groups = self.setting.file, self.setting.readout.groups
        column = self.setting.readout.column(concept)
        needed = file.support.n_test_units if self.setting.readout.per == "patch" else 1
        shown = self.test.clean.n_base.sum(0) >= needed
        peers = tuple(c for c in groups.peers(column) if shown[c])
        return Question(column, file.metric, file.direction, groups, peers)

    def evidence_of(self, concept: str) -> Evidence:
        """The same by name."""
        return self.evidence(next(p for p in self.proposals if p.concept == concept))

    def evidence(self, p: Proposal) -> Evidence:
        """The tallies of one hypothesis's tested arms, on its own images."""
        images = np.flatnonzero(self.images_of[p.concept])
        clean = self.test.clean.take(images)
        ask = self.question(p.concept)

        def of(arm: str) -> list[Tally]:
            return [
                self.tallies[use.key]
                for use in self.plan.uses
                if use.concept == p.concept and use.arm == arm and use.tested
            ]

        tried = [tally.take(images) for tally in of("selected")]
        best = max(tried, key=lambda tally: ask.effect(tally, clean))
        same_length = {arm: Tally.stack(of(arm), images) for arm in CONTROLS}
        return Evidence(
            ask, clean, best, Tally.stack(of("random_latents"), images),
            self.plan.matched[p.concept], same_length,
            Tally.stack(of("untrained_same_length"), images), self.curves(p), len(tried),
            p.p_selection,
        )  # fmt: skip

    def curves(self, p: Proposal) -> Curves | None:
        """Every arm of the trade-off at every dose; None where the file names no doses."""
        return self.hypothesis_curves(p).curves if self.setting.file.tradeoff.doses else None

    def hypothesis_curves(self, p: Proposal) -> HypothesisCurves:
        """The same with what is asked, on the hypothesis's images; without doses the tested edit is
        the only point."""
        file, images = self.setting.file, np.flatnonzero(self.images_of[p.concept])
        found: dict[str, dict[float, list[Tally]]] = {}
        for use in self.plan.uses:
            here = use.concept == p.concept and use.arm in TRADEOFF_ARMS
            if here and (use.tested or use.amount != 1) and use.draw < file.tradeoff.draws:
                by_dose = found.setdefault(use.arm, {})
                by_dose.setdefault(use.amount, []).append(self.tallies[use.key])
        doses = tuple(sorted(found["selected"]))
        arms = {
            arm: Tally.stack([Tally.mean(by_dose[dose]) for dose in doses], images)
            for arm, by_dose in found.items()
        }
        clean = self.test.clean.take(images)
        return HypothesisCurves(self.question(p.concept), clean, Curves(doses, arms), images)

    @cached_property
    def mean_tradeoff(self) -> list[MeanTradeoff]:
        """Every arm at every level, over hypotheses; empty where the file names no doses."""
        if not self.setting.file.tradeoff.doses:
            return []
        found = [self.hypothesis_curves(p) for p in self.proposals]
        return mean_tradeoff(found, self.test.n_images, seed=self.setting.file.seed)

    def check_identity(self) -> None:
        """An identity edit that changes anything means that nothing else can be trusted.

        Raises:
            RuntimeError: it did.
        """
        for use in self.plan.uses:
            if use.arm != "identity":
                continue
            images = np.flatnonzero(self.images_of[use.concept])
            edited = self.tallies[use.key].take(images)
            clean = self.test.clean.tally.take(images)
            if not all(np.array_equal(*pair) for pair in zip(edited, clean, strict=True)):
                raise RuntimeError(
                    f"the identity edit changed predictions on images of {use.concept!r}"
                )
