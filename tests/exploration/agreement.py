"""What the machinery of ``saev.intervene`` predicts for an edit that an explorer has on the screen."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from saev.exploration.edit_arms import N_DRAWS
from saev.exploration.explorer import Explorer
from saev.intervention.arms.arms import ArmPlan
from saev.intervention.arms.runner import Runner, read_test_images
from saev.intervention.choose.discovery import discover
from saev.intervention.choose.proposals import Proposer
from saev.intervention.hypothesis import Hypothesis, Images
from saev.intervention.judge.tally import predict

ARMS = {
    "selected": "selected",
    "random_latents": "random_latent",
    "untrained_same_length": "untrained",
    "diffmean": "diffmean",
}
"""Arms of an experiment, and what they are called in the explorer."""


@torch.no_grad()
def experiment_arms(
    explorer: Explorer, key: str, latents: list[int], edit: Mapping[str, Any], concept: str
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Per arm the probabilities of every draw (k, u, c), and the tally's sums of probability (c,)."""
    items = explorer.start.items
    file = Hypothesis(
        concept=concept, latents=tuple(latents), edit=dict(edit), untrained=explorer.setting.file.untrained,
        tokens=explorer.setting.file.tokens, seed=explorer.setting.file.seed,
        images=Images(discovery=tuple(item.image_id for item in items)),
    )  # fmt: skip
    setting = replace(explorer.setting, file=file)
    discovery = discover(setting, items)
    proposals = Proposer(setting, discovery).propose([setting.readout.column(concept)])
    plan = ArmPlan(setting, discovery, proposals, N_DRAWS)
    plan.build()
    test = read_test_images(setting, [explorer.pictures.items[key]])
    runner = Runner(setting, test)
    batch = runner.batch(np.array([0]))
    found: dict[str, list[np.ndarray]] = {name: [] for name in ARMS.values()}
    for use in plan.uses:
        if use.tested and use.arm in ARMS:
            acts = plan.jobs[use.key].steer(batch)
            logits = setting.readout.of_acts(setting.backbone, acts, setting.layer)
            predicted = predict(logits, setting.readout.groups).probabilities[0]
            found[ARMS[use.arm]].append(predicted.numpy())
    selected = {u.key: plan.jobs[u.key] for u in plan.uses if u.tested and u.arm == "selected"}
    (tally,) = runner.run(selected, {concept: np.ones(1, bool)}).values()
    return {name: np.stack(draws) for name, draws in found.items()}, tally.probability[0]


def compare(
    explorer: Explorer, key: str, latents: list[int], edit: Mapping[str, Any], concept: str
) -> float:
    """The largest difference of a probability, over all arms; 1 where draws are not the same."""
    outcome = explorer.edit(key, [{**edit, "latents": latents}], target=concept)
    expected, _ = experiment_arms(explorer, key, latents, edit, concept)
    worst = 0.0
    for name, draws in expected.items():
        arm = outcome.arms[name]
        assert arm.absent is None, f"{name}: {arm.absent}"
        assert arm.all_probabilities is not None and len(arm.changes) == len(draws), name
        before = outcome.arms["before"].all_probabilities
        n_groups = len(explorer.setting.readout.groups.spans)
        changes = np.abs(draws - before).sum(-1).mean(-1) / (2 * n_groups)
        strongest = draws[int(np.argmax(arm.changes))]
        worst = max(
            worst,
            float(np.abs(arm.all_probabilities - strongest).max()),
            float(np.abs(np.array(arm.changes) - changes).max()),
        )
    return worst
