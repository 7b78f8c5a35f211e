"""Registration of picks: a model card, a version in the model registry, tags with the reasons."""

from pathlib import Path

from saev.evaluation.choice.card import model_card
from saev.evaluation.choice.front import Pick
from saev.evaluation.choice.outcome import ChoiceSettings, aliases, default_name
from saev.evaluation.choice.runs import Sweep, SweepRun
from saev.files import write_atomically
from saev.tracking import MLflowTracking, Tracking
from saev.tracking.sweeps import Version, add_artifact, register, tag


def why_unregistered(settings: ChoiceSettings, tracking: Tracking) -> str:
    """Empty where picks are registered."""
    if not settings.register:
        return "choice.register is false"
    return "" if isinstance(tracking, MLflowTracking) else "only logger=mlflow has a registry"


def hand_over(
    picks: list[Pick], members: list[SweepRun], sweep: Sweep, folder: Path,
    settings: ChoiceSettings, tracking: Tracking,
) -> list[Version | None]:  # fmt: skip
    """Writes ``picks/<n>/README.md`` below ``folder`` and registers each pick; its version, or None.

    The dictionary stays where it is, among the artifacts of its own run, and the card joins it there.
    Where the store has no such run it is copied into this one.
    """
    name = settings.model_name or default_name(members[0])
    found: list[Version | None] = []
    for number, (pick, alias) in enumerate(zip(picks, aliases(picks, members), strict=True), 1):
        member = members[pick.index]
        card = folder / "picks" / str(number) / "README.md"
        card.parent.mkdir(parents=True, exist_ok=True)
        _write(card, member, pick, name, "not registered", len(members), sweep)
        if why_unregistered(settings, tracking):
            found.append(None)
            continue
        assert isinstance(tracking, MLflowTracking)
        uri, (run_id, path) = tracking.tracking_uri, _home(member, number, tracking)
        tags = {
            "saev.pick": str(number), "saev.pick.reason": pick.reason,
            "saev.sweep": sweep.run_id or sweep.name, "saev.member": member.label,
            "saev.l0": f"{member.point.l0:.5g}",
            "saev.explained_variance": f"{member.point.explained_variance:.5g}",
        }  # fmt: skip
        version = register(uri, name, run_id, path, alias=alias, tags=tags, description=pick.reason)
        _write(card, member, pick, name, str(version.version), len(members), sweep)
        add_artifact(uri, run_id, card, path)
        if member.run_id is not None:
            tag(uri, member.run_id, tags)
        found.append(version)
    return found


def _write(
    card: Path, member: SweepRun, pick: Pick, name: str, version: str, n_members: int, sweep: Sweep
) -> None:
    text = model_card(member, pick, name, version, n_members, sweep)
    write_atomically(card, text)


def _home(member: SweepRun, number: int, tracking: MLflowTracking) -> tuple[str, str]:
    """Run and artifact folder that hold the dictionary."""
    if member.run_id is not None:
        return member.run_id, "sae"
    assert tracking.run_id is not None
    path = f"choice/picks/{number}"
    tracking.log_artifact(member.folder / "sae", path)
    return tracking.run_id, path


def tag_parent(
    sweep: Sweep, picks: list[Pick], members: list[SweepRun], tracking: Tracking
) -> None:
    """The sweep's own run says where the choice is, and what was chosen."""
    if isinstance(tracking, MLflowTracking) and sweep.run_id is not None:
        chosen = ", ".join(members[pick.index].label for pick in picks)
        tags = {"saev.choice.run_id": str(tracking.run_id), "saev.choice.picks": chosen}
        tag(tracking.tracking_uri, sweep.run_id, tags)
