"""Files of a choice: ``index.html``, ``pareto.png``, ``members.csv``, ``picks.json``."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from saev.evaluation.choice.figure import Dot, pareto_figure
from saev.evaluation.choice.outcome import Choice, off_front
from saev.files import write_atomically, write_table
from saev.pages.render import fill_template

TEMPLATE = Path(__file__).parent / "page.html.j2"

PICTURE = "figures/latents_random.png"
SHORT_FRONT = 1.25
"""Of the largest to the smallest L0 on the front: below it members hardly differ in sparsity."""


def write_choice(choice: Choice, folder: Path, n_picks: int) -> None:
    """Writes the page and what it is made of; the page opens from disk."""
    import pandas as pd

    rows = _rows(choice)
    frame = pd.DataFrame(rows)
    for end in ("csv", "parquet"):
        write_table(frame, folder / f"members.{end}")
    picks = _picks(choice, folder)
    kept = (
        "number",
        "label",
        "reason",
        "l0",
        "explained_variance",
        "run_id",
        "sae_dir",
        "registered",
    )
    text = json.dumps([{key: pick[key] for key in kept} for pick in picks], indent=2)
    write_atomically(folder / "picks.json", text + "\n")
    subject = _subject(choice)
    dots = [
        Dot(row["member"], row["l0"], row["explained_variance"], row["dead"], row["dense"],
            row["on_front"], row["pick"])
        for row in rows
    ]  # fmt: skip
    pareto_figure(dots, subject).savefig(folder / "pareto.png", dpi=130)
    page = fill_template(TEMPLATE, {
        "members": rows, "picks": picks, "n_front": len(choice.front), "n_picks": n_picks,
        "subject": subject, "summary": _summary(choice), "left_out": choice.sweep.left_out,
        "not_registered": choice.unregistered_because,
    })  # fmt: skip
    write_atomically(folder / "index.html", page)


def _rows(choice: Choice) -> list[dict[str, Any]]:
    """One per member, fewest active latents first."""
    numbers = {pick.index: number for number, pick in enumerate(choice.picks, 1)}
    rows = []
    for index, member in sorted(enumerate(choice.members), key=lambda item: item[1].point):
        on_front, metrics = index in choice.front, member.metrics
        rows.append({
            "member": member.label, "run_id": member.run_id, "l0": member.point.l0,
            "explained_variance": member.point.explained_variance,
            "nmse": metrics.get("val/nmse"), "dead": metrics["val/dead_fraction"],
            "dense": metrics["val/dense_fraction"],
            "kl_recovered": metrics.get("fidelity/kl_recovered"),
            "agreement": metrics.get("fidelity/agreement/reconstructed"),
            "activation": member.sae_config["activation"], "d_sae": member.sae_config["d_sae"],
            "on_front": on_front,
            "off_front": "" if on_front else off_front(choice.members, choice.front, index),
            "pick": numbers.get(index), "sae_dir": str(member.folder / "sae"),
        })  # fmt: skip
    return rows


def _picks(choice: Choice, folder: Path) -> list[dict[str, Any]]:
    found = []
    for number, (pick, version) in enumerate(zip(choice.picks, choice.registered, strict=True), 1):
        member = choice.members[pick.index]
        picture = None
        if (member.folder / PICTURE).is_file():
            picture = f"picks/{number}/{Path(PICTURE).name}"
            shutil.copyfile(member.folder / PICTURE, folder / picture)
        found.append({
            "number": number, "label": member.label, "reason": pick.reason,
            "l0": member.point.l0, "explained_variance": member.point.explained_variance,
            "run_id": member.run_id, "sae_dir": os.path.relpath(member.folder / "sae"),
            "registered": version._asdict() if version else None, "picture": picture,
        })  # fmt: skip
    return found


def _subject(choice: Choice) -> str:
    sae = choice.members[0].sae_config
    tokens = {"patch": "patch", "class": "class", "registers": "register"}.get(
        sae["tokens"]["which"], "all"
    )
    return f"{sae['backbone']['name']}, block {sae['layer']}, {tokens} tokens"


def _summary(choice: Choice) -> str:
    n = len(choice.members)
    parts = [f"{n} member{'s' if n != 1 else ''} of the sweep “{choice.sweep.name}”"]
    if choice.sweep.run_id:
        parts.append(f"(run {choice.sweep.run_id})")
    parts.append(
        f"with scores; {len(choice.front)} on the Pareto front, {len(choice.picks)} picked."
    )
    if choice.sweep.left_out:
        parts.append(f"{len(choice.sweep.left_out)} left out, see the end.")
    if not choice.picks:
        parts.append("Nothing is worth picking: no member explains more than the mean activation.")
    l0s = [choice.members[index].point.l0 for index in choice.front]
    if len(l0s) > 1 and l0s[-1] < SHORT_FRONT * l0s[0]:
        parts.append(
            f"The front spans a small range of L0, {l0s[0]:.3g} to {l0s[-1]:.3g}: unless that "
            "difference matters, take the member with the highest explained variance."
        )
    return " ".join(parts)
