"""One edit with its controls: two forward passes from the tap on.

The first is of the clean stream, the edit and its random latents; the second of the controls that need
to know which class the edit changes. Suffixes: p tokens.
"""

import time
from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from saev.editing.code_edits import CodeEdit
from saev.exploration.answers import ArmOutcome, EditOutcome
from saev.exploration.edit_arms import Arm, EditArms
from saev.exploration.edit_outcome import CONTROLS, LABELS, Answers, exceeds_controls
from saev.exploration.model_answers import ModelAnswers
from saev.intervention.readout import Readout


@torch.no_grad()
def run_edit(
    model: ModelAnswers, arms: EditArms, readout: Readout, key: str, edits: Sequence[CodeEdit],
    mask: Bool[Tensor, "1 p"] | None, target: str | None,
) -> EditOutcome:  # fmt: skip
    """What the model predicts, next to its controls; ``target`` None: what the edit changes most.

    Raises:
        UserError: an unknown image or target.
    """
    began = time.perf_counter()
    if target is not None:
        readout.column(target)
    with model.lock:
        encoded, tap = model.encoded(key), arms.selected(edits)
        delta, changed = tap.delta(encoded, mask)
        random = arms.random(edits, encoded, mask)
        streams = [encoded.acts, tap.steer(encoded, mask), random.streams]
        first = model.probabilities(readout, streams)
        answers = Answers(readout, first[0], first[1], model.setting.backbone.grid)
        target = answers.most_changed() if target is None else target
        untrained = arms.untrained(edits, target, encoded, mask)
        diffmean = arms.diffmean(edits, target, encoded, mask)
        second = model.probabilities(readout, [untrained.streams, diffmean.streams])
    n_untrained = 0 if untrained.streams is None else len(untrained.streams)
    draws = {
        "before": first[:1],
        "selected": first[1:2],
        "random_latent": first[2:],
        "untrained": second[:n_untrained],
        "diffmean": second[n_untrained:],
    }
    controls: dict[str, Arm] = dict(zip(CONTROLS, (random, untrained, diffmean), strict=True))
    found = {
        name: ArmOutcome(LABELS[name], absent=controls[name].absent)
        if name in controls and controls[name].absent is not None
        else answers.arm(name, rows, target)
        for name, rows in draws.items()
    }
    return EditOutcome(
        per=readout.per, target=target, classes=answers.classes(target), arms=found,
        exceeds=exceeds_controls(found), n_tokens=int(changed.sum()),
        length=float(delta[changed].norm(dim=-1).mean()) if bool(changed.any()) else 0.0,
        seconds=time.perf_counter() - began,
    )  # fmt: skip
