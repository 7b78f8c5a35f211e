"""How selective the latents are that each selector chooses, on discovery images alone.

    python -m benchmarks.selectors HYPOTHESIS --sae DIR --head DIR --images NAME --root DIR --weights FILE

HYPOTHESIS is a file, or the name of one in conf/hypotheses; NAME is a file of conf/images. Latents are
chosen on its discovery images and edited on the split ``--edit``, or without it on every third discovery
image, which then is not chosen on. Printed is what else has changed where half of the target has, mean
over the concepts in which an arm gets there, with the trained dictionary and with one that was never
trained, next to DiffMean, a probe and the gradient of the margin. Every arm is as long at every token as
the edit of the latents that fit best. Nothing is tested.
"""

from __future__ import annotations

import argparse
from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.images import ImageItem
from saev.errors import UserError
from saev.heads import load_head
from saev.intervention.arms.arms import ArmPlan
from saev.intervention.arms.runner import Runner, TestSet, read_test_images
from saev.intervention.choose.discovery import Discovery, discover
from saev.intervention.choose.effects import atom_effects, margin_gradients
from saev.intervention.choose.proposals import Latents, Proposal, Proposer, tested_columns
from saev.intervention.choose.selectors import effect_scores, select_latents
from saev.intervention.hypothesis import MIN_DRAWS, Hypothesis, TableSettings, read_hypothesis
from saev.intervention.judge.dose_curves import other_changes
from saev.intervention.judge.tally import Question, Tally
from saev.intervention.readout import make_readout
from saev.intervention.setting import Setting
from saev.intervention.splits import choose_images, hypothesis_images, with_support
from saev.loading import backbone_of
from saev.sae import SparseAutoencoder
from saev.sources import open_images

AMONG = (20, 50, 150, None)
"""Candidates of which the effect decides; None: all."""
DOSES = (0.125, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
LEVEL = 0.5
"""Target change at which the rest is read."""
BATCH_SIZE, MAX_ROWS, N_WORKERS = 16, 96, 2


class Chooser:
    """Latents of both dictionaries by fit alone, and by effect among those that fit."""

    def __init__(self, setting: Setting, found: Discovery, items: list[ImageItem]) -> None:
        self.setting, self.found = setting, found
        self.gradients = margin_gradients(setting, items)
        self.effects = atom_effects(setting, self.gradients)
        self.fit = "f1" if setting.readout.per == "patch" else "average_precision"

    def latents(self, which: str, column: int, among: int | None, by_effect: bool) -> Latents:
        """The best of a class."""
        group = self.setting.readout.groups.of(column)
        n_columns, n = len(self.setting.readout.concepts), self.setting.file.selector.n
        scores = self.found.scores(which, self.fit, group, n_columns)
        if by_effect:
            scores = effect_scores(scores, self.effects[which], among or len(scores))
        table, alive = self.found.table(which, group), self.found.units[which].stats.alive
        return select_latents(self.fit, table, scores, column, n, alive)

    def directions(self, plan: ArmPlan, p: Proposal) -> dict[str, Tensor]:
        """Where every arm of a concept points."""
        named = {"trained": "sae", "untrained": self.setting.untrained[0]}
        found: dict[str, Tensor] = {}
        for words, which in named.items():
            chosen = {"best fit": self.latents(which, p.column, None, by_effect=False)}
            for among in AMONG:
                chosen[f"effect among {among or 'all'}"] = self.latents(
                    which, p.column, among, by_effect=True
                )
            found |= {f"{by}, {words}": plan.towards(one, which) for by, one in chosen.items()}
        found["DiffMean"] = plan.directions.diffmean[p.column]
        found["linear probe"] = plan.directions.probe[p.column]
        found["gradient of the margin"] = self.gradients[p.column]
        return found


def other_change_of(
    setting: Setting, discovery: list[ImageItem], edited: list[ImageItem]
) -> dict[str, np.ndarray]:
    """By arm and concept the share of other units changed at ``LEVEL``; inf where it is never reached."""
    found = discover(setting, discovery)
    chooser = Chooser(setting, found, discovery)
    proposals = Proposer(setting, found).propose(tested_columns(setting, found))
    test = read_test_images(setting, edited)
    proposals, _ = with_support(setting, proposals, test)
    plan = ArmPlan(setting, found, proposals, MIN_DRAWS)
    keys: dict[tuple[str, str], list[Hashable]] = {}
    for p in proposals:
        length_of, scale = (
            chooser.latents("sae", p.column, None, by_effect=False),
            setting.file.scale,
        )
        for arm, towards in chooser.directions(plan, p).items():
            keys[arm, p.concept] = [
                plan.direction_key((arm, p.concept), towards, length_of, scale, p.concept, dose)
                for dose in DOSES
            ]  # fmt: skip
    images_of = {p.concept: hypothesis_images(setting, p, test) for p in proposals}
    tallies = Runner(setting, test).run(plan.jobs, images_of)
    return {
        arm: np.array(
            [
                _at_level(setting, test, p, np.flatnonzero(images_of[p.concept]),
                          [tallies[key] for key in keys[arm, p.concept]])
                for p in proposals
            ]
        )
        for arm in dict.fromkeys(arm for arm, _ in keys)
    }  # fmt: skip


def _at_level(
    setting: Setting, test: TestSet, p: Proposal, images: np.ndarray, tallies: list[Tally]
) -> float:
    ask = Question(
        p.column, setting.file.metric, setting.file.direction, setting.readout.groups, ()
    )
    clean, stack = test.clean.take(images), Tally.stack(tallies, images)
    return float(other_changes(ask, clean, stack, np.ones((1, len(images))), LEVEL)[0])


def pilot_of(file: Hypothesis, edit: str | None) -> Hypothesis:
    """The file with what this needs: one untrained dictionary, and nothing tested."""
    selector = replace(file.selector, by="f1")
    return replace(
        file, selector=selector, draws=MIN_DRAWS, shuffles=1, untrained=1, directions=19, layer=None,
        table=TableSettings(), images=replace(file.images, test=edit or file.images.test),
        support=replace(file.support, n_test_units=file.support.n_test_units // 2),
    )  # fmt: skip


def run(args: argparse.Namespace) -> dict[str, np.ndarray]:
    """The table's rows."""
    file = pilot_of(read_hypothesis(args.hypothesis, None)[0], args.edit)
    sae, head = SparseAutoencoder.from_pretrained(args.sae), load_head(args.head)
    backbone = backbone_of(sae, args.sae, weights=args.weights, head=head)
    source = open_images(args.images, roots=[args.root], **dict(args.source))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    setting = Setting(
        file, sae, backbone, make_readout(args.head, backbone, source), source, BATCH_SIZE, MAX_ROWS,
        N_WORKERS, device,
    )  # fmt: skip
    setting.check()
    discovery, edited = choose_images(setting)
    if args.edit is None:
        discovery, edited = [x for k, x in enumerate(discovery) if k % 3], discovery[::3]
    return other_change_of(setting, discovery, edited)


def option(text: str) -> tuple[str, Any]:
    """``void_value=11`` as a keyword of the images."""
    name, _, value = text.partition("=")
    return name, int(value) if value.isdigit() else value


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("hypothesis")
    for name in ("sae", "head", "images", "root", "weights"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--source", nargs="*", type=option, default=[], help="void_value=11 …")
    parser.add_argument("--edit", help="a split; without it every third discovery image")
    try:
        found = run(parser.parse_args())
    except UserError as error:
        raise SystemExit(str(error)) from error
    print("| arm | other change, mean, % | concepts that never get there |\n|---|---|---|")
    for arm, shares in found.items():
        there = np.isfinite(shares)
        mean = f"{100 * shares[there].mean():.1f}" if there.any() else "–"
        print(f"| {arm} | {mean} | {(~there).sum()} of {len(shares)} |", flush=True)


if __name__ == "__main__":
    main()
