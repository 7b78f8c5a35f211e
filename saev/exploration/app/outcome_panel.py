"""What an edit does to the predictions, beside control edits of the same size."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from saev.exploration.app.markup import notice, percent, words
from saev.exploration.edit_outcome import LABELS

if TYPE_CHECKING:
    from saev.exploration.answers import ArmOutcome, EditOutcome

COLOURS = {
    "before": "#8a8f98",
    "selected": "#31688e",
    "random_latent": "#b9a44c",
    "untrained": "#c58a5a",
    "diffmean": "#9a6fa3",
}
ARMS = {name: (LABELS[name], colour) for name, colour in COLOURS.items()}
"""Arm → what the page calls it, and its colour."""
IN_WORDS = {
    "random_latent": "random latents at the same dose",
    "untrained": "latents of an untrained dictionary",
    "diffmean": "the DiffMean direction",
}
"""Control arm → how a sentence calls it."""
CLASS_COLOURS = (
    "#31688e", "#e0a100", "#b5493a", "#4c9f70", "#9a6fa3", "#5b6472", "#d98cb3", "#7fb6d6",
    "#8c6d31", "#a3c76d", "#393b79", "#c7c7c7",
)  # fmt: skip


def verdict_sentence(outcome: "EditOutcome") -> str:
    """Whether the edit changes more than the controls, in plain words."""
    selected = outcome.arms["selected"]
    if selected.absent:
        return f"Your edit does nothing here: {selected.absent}."
    if outcome.n_tokens == 0 or selected.change < 5e-7:
        return "Your edit changes nothing here: the latents already have these codes."
    beaten = [IN_WORDS[name] for name, more in outcome.exceeds.items() if more]
    lost = [IN_WORDS[name] for name, more in outcome.exceeds.items() if not more]
    head = f"Your edit moves {percent(selected.change)} of the probability"
    if not beaten and not lost:
        return f"{head}; no control edit could be made to compare it with."
    if not lost:
        return f"{head}, more than every control edit of the same size: {_list(beaten)}."
    if not beaten:
        return f"{head}, no more than control edits of the same size: {_list(lost)}."
    return f"{head}: more than {_list(beaten)}, but no more than {_list(lost)}."


def _list(items: Sequence[str]) -> str:
    return " and ".join([", ".join(items[:-1]), items[-1]] if items[1:] else items)


def outcome_html(outcome: "EditOutcome") -> str:
    """The sentence, the size of every arm's change, and the predictions before and after."""
    exceeds = all(outcome.exceeds.values()) and bool(outcome.exceeds)
    parts = [
        f'<p class="{"good" if exceeds else "hint"} sentence" role="status">'
        f"{words(verdict_sentence(outcome))}</p>",
        _changes(outcome),
    ]
    if outcome.arms["selected"].class_map is not None:
        parts.append(_maps(outcome))
    parts.append(_bars(outcome))
    parts.append(
        f'<p class="soft">Changed on {outcome.n_tokens} tokens by {outcome.length:.3g} on average; '
        f"answered in {outcome.seconds:.2f} s.</p>"
    )
    return "".join(parts)


def _changes(outcome: "EditOutcome") -> str:
    arms = {name: arm for name, arm in outcome.arms.items() if name != "before"}
    most = max((arm.change for arm in arms.values() if arm.change == arm.change), default=0) or 1.0
    rows = "".join(_change_row(name, arm, most) for name, arm in arms.items())
    return (
        '<h4 title="Half the sum of absolute differences of all class probabilities">'
        "How much of the probability moves</h4>"
        f'<div class="chart">{rows}</div>'
    )


def _change_row(name: str, arm: "ArmOutcome", most: float) -> str:
    title, colour = ARMS[name]
    if arm.absent:
        return f'<div class="row"><span>{words(title)}</span><i class="soft">{words(arm.absent)}</i></div>'
    draws = ""
    if len(arm.changes) > 1:
        title = f"{title} (largest of {len(arm.changes)})"
        draws = "".join(
            f'<b class="draw" style="left:{100 * c / most:.1f}%"></b>' for c in arm.changes
        )
    return (
        f'<div class="row"><span>{words(title)}</span><span class="track">'
        f'<span style="width:{100 * arm.change / most:.1f}%;background:{colour}"></span>{draws}</span>'
        f"<em>{percent(arm.change)}</em></div>"
    )


def _bars(outcome: "EditOutcome") -> str:
    """Probabilities of the likeliest classes: one thick bar before, one after, thin ones for controls."""
    before = outcome.arms["before"].probabilities
    shown = {n: a for n, a in outcome.arms.items() if not a.absent and a.probabilities}
    rows = []
    for name in before:
        lines = "".join(
            f'<span class="line {"thick" if arm in ("before", "selected") else "thin"}" '
            f'title="{words(ARMS[arm][0])}: {percent(one.probabilities.get(name, 0.0))}">'
            f'<span style="width:{100 * one.probabilities.get(name, 0.0):.1f}%;'
            f'background:{ARMS[arm][1]}"></span></span>'
            for arm, one in shown.items()
        )
        after = outcome.arms["selected"].probabilities.get(name, before[name])
        target = " target" if name == outcome.target else ""
        rows.append(
            f'<div class="row{target}"><span>{words(_plain(name))}</span><span class="lines">{lines}</span>'
            f"<em>{percent(before[name])} → {percent(after)}</em></div>"
        )
    key = "".join(
        f'<li><i style="background:{ARMS[arm][1]}"></i>{words(ARMS[arm][0])}</li>' for arm in shown
    )
    what = "of the picture" if outcome.per == "image" else "mean over the patches"
    return (
        f'<h4>Class probabilities {what}, before → after</h4><ul class="key">{key}</ul>'
        f'<div class="chart classes">{"".join(rows)}</div>'
    )


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _maps(outcome: "EditOutcome") -> str:
    """The class of each patch before and after, and under each control."""
    maps = {n: a.class_map for n, a in outcome.arms.items() if a.class_map is not None}
    used = sorted({int(c) for grid in maps.values() for c in grid.ravel()})
    colour = {c: CLASS_COLOURS[i % len(CLASS_COLOURS)] for i, c in enumerate(used)}
    figures = []
    for name, grid in maps.items():
        gh, gw = grid.shape
        cells = "".join(
            f'<rect x="{c}" y="{r}" width="1.02" height="1.02" fill="{colour[int(grid[r, c])]}"/>'
            for r in range(gh)
            for c in range(gw)
        )
        figures.append(
            f'<figure class="tile"><svg viewBox="0 0 {gw} {gh}" role="img" '
            f'aria-label="Classes of the patches, {words(ARMS[name][0])}">{cells}</svg>'
            f"<figcaption>{words(ARMS[name][0])}</figcaption></figure>"
        )
    key = "".join(
        f'<li><i style="background:{colour[c]}"></i>{words(_plain(outcome.classes[c]))}</li>'
        for c in used
        if c < len(outcome.classes)
    )
    tiles = "".join(figures)
    return f'<h4>Class of each patch</h4><div class="tiles">{tiles}</div><ul class="key">{key}</ul>'


def no_edit_yet() -> str:
    """What stands in the place of an outcome before there is an edit."""
    return notice(
        "Open a latent under Look and press “Edit this latent”: the prediction before and after "
        "appears here."
    )
