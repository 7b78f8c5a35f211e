"""From an edit on a screen to the file of a hypothesis for ``saev.intervene``."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import yaml
from jaxtyping import Float

from datamodules.images import ImageItem
from saev.editing.code_edits import CodeEdit
from saev.editing.edits import edit_to_dict
from saev.errors import UserError
from saev.intervention.hypothesis import Hypothesis
from saev.intervention.setting import Setting
from saev.intervention.splits import in_turn

N_TEST = 96
"""Test images of a hypothesis: few enough for an experiment that somebody waits for."""
FEWEST_TEST = 20


def merged_edit(
    edits: Sequence[CodeEdit], largest: Float[np.ndarray, " s"]
) -> tuple[dict[str, Any], list[int]]:
    """Edits of one kind and amount as a single one; with its latents.

    Marked patches of one picture mean nothing on others: such edits become edits at all tokens.

    Raises:
        UserError: the edits differ, or set several latents to one code.
    """
    plain: list[dict[str, Any]] = []
    latents: list[int] = []
    for edit in edits:
        content = edit_to_dict(edit)
        own = [int(k) for k in content.pop("latents")]
        if content["where"] in ("mask", "off_mask") or edit.where.kind == "patches":
            content["where"] = "all"
        if content.pop("unit", "largest") == "code":
            if len(own) > 1 or largest[own[0]] == 0:
                raise UserError(
                    "a hypothesis gives amounts in multiples of the largest code: use those"
                )
            for name in ("scale", "low", "high"):
                if name in content:
                    content[name] = float(content[name] / largest[own[0]])
        plain.append(content)
        latents += own
    if any(content != plain[0] for content in plain):
        raise UserError(
            "a hypothesis is about one edit of one or several latents: give all of them the same kind, "
            "amount and place"
        )
    return plain[0], list(dict.fromkeys(latents))


def unseen_items(setting: Setting, seen: Collection[str]) -> list[ImageItem]:
    """Held-out images that nobody has looked at, classes in turn.

    Raises:
        UserError: too few are left.
    """
    unseen = [item for item in setting.source.split("heldout") if item.image_id not in seen]
    if setting.readout.per == "image":
        unseen = [item for item in unseen if item.label is not None]
    if len(unseen) < FEWEST_TEST:
        raise UserError(
            f"{len(unseen)} held-out images are left that nobody has looked at, and {FEWEST_TEST} are "
            "needed to test a hypothesis: give the explorer more images"
        )
    return in_turn(unseen)[:N_TEST]


def command_words(setting: Setting, sae: str | None, head: str) -> str:
    """How a file is tested: with the same dictionary, head and images."""
    words = ["python -m saev.intervene hypothesis=FILE", f"sae={sae or 'DIR'}", f"head={head}"]
    spec = setting.source.spec()
    if spec != setting.sae.cfg.images:
        words.append(f"images={spec.pop('kind')}")
        words += [f"images.{key}={_plain_value(value)}" for key, value in spec.items()]
    return " ".join(words)


def _plain_value(value: Any) -> str:
    """As the command line takes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_plain_value, value))}]"
    return str(value)


def hypothesis_text(
    setting: Setting, edits: Sequence[CodeEdit], concept: str, rises: bool,
    largest: Float[np.ndarray, " s"], seen: Collection[str], command: str,
) -> str:  # fmt: skip
    """YAML: the edit, on images that nobody has seen, with the latents that were chosen by hand.

    Args:
        rises: whether the edit raises the concept's probability.
        seen: ids of images that were on the screen.
        command: how the file is tested.

    Raises:
        UserError: edits that one hypothesis cannot hold; too few images are left to test it on.
    """
    edit, latents = merged_edit(edits, largest)
    tokens = setting.file.tokens
    content: dict[str, Any] = {
        "concept": concept,
        "latents": latents,
        "edit": edit,
        "direction": "increase" if rises else "decrease",
        "tokens": tokens if isinstance(tokens, str) else list(tokens),
        "seed": setting.file.seed,
        "images": {
            "discovery": "train",
            "n_discovery": setting.file.images.n_discovery,
            "test": [item.image_id for item in unseen_items(setting, seen)],
        },
    }
    Hypothesis.from_dict(content, "the hypothesis")
    head = (
        "# Chosen by looking at pictures; tested on others that were not on the screen.\n"
        f"# {command}\n"
    )
    return head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
