"""Model selection in a sweep, from its id or folder to the page and the registry."""

import logging
from pathlib import Path

from saev.cli.console import print_table
from saev.evaluation.choice.front import pareto_front, pick_log_spaced
from saev.evaluation.choice.outcome import Choice, ChoiceSettings
from saev.evaluation.choice.page import write_choice
from saev.evaluation.choice.registration import hand_over, tag_parent, why_unregistered
from saev.evaluation.choice.runs import check_comparable, find_sweep, select
from saev.tracking import Tracking

log = logging.getLogger(__name__)


def choose(given: str, settings: ChoiceSettings, out_dir: Path, tracking: Tracking) -> Choice:
    """Draws the front of a sweep, picks members on it, registers them; leaves ``choice/``.

    Raises:
        UserError: an unknown sweep, no member with scores, members scored on different activations,
            a registry that refuses.
    """
    sweep = find_sweep(given, tracking, out_dir / "members")
    members = select(sweep.members, settings.where)
    check_comparable(members)
    points = [member.point for member in members]
    front = pareto_front(points)
    picks = pick_log_spaced(points, front, settings.n_picks)
    folder = out_dir / "choice"
    folder.mkdir(parents=True, exist_ok=True)
    registered = hand_over(picks, members, sweep, folder, settings, tracking)
    choice = Choice(sweep, members, front, picks, registered, why_unregistered(settings, tracking))
    write_choice(choice, folder, settings.n_picks)
    tracking.log_artifact(folder, "choice")
    tag_parent(sweep, picks, members, tracking)
    return choice


def show_choice(choice: Choice) -> None:
    """Members and picks on screen."""
    numbers = {pick.index: str(n) for n, pick in enumerate(choice.picks, 1)}
    rows = [
        [
            member.label, f"{member.point.l0:.4g}", f"{member.point.explained_variance:.4f}",
            f"{100 * member.metrics['val/dead_fraction']:.2f}",
            f"{100 * member.metrics['val/dense_fraction']:.2f}",
            "yes" if index in choice.front else "", numbers.get(index, ""),
        ]
        for index, member in sorted(enumerate(choice.members), key=lambda item: item[1].point)
    ]  # fmt: skip
    print_table(
        f"{len(choice.members)} members, {len(choice.front)} on the Pareto front",
        ["", "L0", "explained variance", "dead %", "dense %", "front", "pick"],
        rows,
    )
    for name, why in choice.sweep.left_out.items():
        log.info("left out: %s (%s)", name, why)
    for n, (pick, version) in enumerate(zip(choice.picks, choice.registered, strict=True), 1):
        where = f" Registered as models:/{version.name}@{version.alias}." if version else ""
        log.info("Pick %d, %s: %s%s", n, choice.members[pick.index].label, pick.reason, where)
