"""Arguments and result of model selection."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from saev.errors import UserError
from saev.evaluation.choice.front import Pick, dominates, eligible
from saev.evaluation.choice.runs import Sweep, SweepRun
from saev.tracking.sweeps import Version


@dataclass(frozen=True)
class ChoiceSettings:
    """What ``choice`` in conf/evaluate.yaml holds."""

    n_picks: int
    where: Mapping[str, Any]
    register: bool
    model_name: str | None

    def __post_init__(self) -> None:
        if self.n_picks < 1:
            raise UserError(f"choice.n_picks must be at least 1, got {self.n_picks}.")
        if self.model_name is not None and not re.fullmatch(r"[\w.\- ]+", self.model_name):
            raise UserError(
                "choice.model_name may hold letters, digits, '_', '-', '.' and spaces, got "
                f"{self.model_name!r}."
            )


class Choice(NamedTuple):
    """What was chosen among the members of a sweep."""

    sweep: Sweep
    members: list[SweepRun]
    front: list[int]
    """Positions among the members, fewest active latents first."""
    picks: list[Pick]
    registered: list[Version | None]
    """Of each pick."""
    unregistered_because: str
    """Why nothing was registered; empty where it was."""


def default_name(member: SweepRun) -> str:
    """Backbone, block and tokens: what a dictionary must share with another to take its place."""
    sae = member.sae_config
    name = f"{sae['backbone']['name']}-layer{sae['layer']}-{sae['tokens']['which']}"
    return re.sub(r"[^\w.-]+", "-", name)


def aliases(picks: Sequence[Pick], members: Sequence[SweepRun]) -> list[str]:
    """Rounded L0 and explained variance in per cent, such as ``l0-32-ev-77``; numbered where two
    would be the same."""
    points = [members[pick.index].point for pick in picks]
    names = [f"l0-{p.l0:.0f}-ev-{100 * p.explained_variance:.0f}" for p in points]
    return [
        name if names.count(name) == 1 else f"{name}-pick-{number}"
        for number, name in enumerate(names, 1)
    ]


def off_front(members: Sequence[SweepRun], front: Sequence[int], index: int) -> str:
    """Why a member is not on the front."""
    point = members[index].point
    if not eligible(point):
        return "it is silent" if point.l0 == 0 else "it explains no more than the mean activation"
    better = next(i for i in front if dominates(members[i].point, point))
    return f"{members[better].label} is better"
