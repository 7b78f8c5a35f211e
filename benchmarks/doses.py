"""How dictionaries answer to a dose, on discovery images alone, so that test images stay unseen.

    python -m benchmarks.doses HYPOTHESIS --sae DIR [DIR …] --head DIR --root DIR --weights FILE

HYPOTHESIS is a file, or the name of one in conf/hypotheses, about a head that answers per image.
Latents are chosen on two thirds of the discovery images and edited on the rest: one, three and ten,
at −0.5 and −1 times their largest code, next to random sets of ten. Nothing is tested; it is for
choosing a dictionary and a setting.
"""

from __future__ import annotations

import argparse
from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np
import torch

from datamodules.images import FolderImages
from saev.errors import UserError
from saev.heads import load_head
from saev.intervention.arms.arms import ArmPlan
from saev.intervention.arms.runner import Runner, TestSet, read_test_images
from saev.intervention.choose.discovery import discover
from saev.intervention.choose.proposals import Proposal, Proposer, tested_columns
from saev.intervention.hypothesis import Hypothesis, Selector, read_hypothesis
from saev.intervention.judge.tally import Question, Tally, other_change
from saev.intervention.readout import Readout, make_readout
from saev.intervention.setting import Setting
from saev.intervention.splits import choose_images, hypothesis_images
from saev.loading import backbone_of
from saev.sae import SparseAutoencoder

SETTINGS = ((1, -1.0), (3, -1.0), (10, -0.5), (10, -1.0))
N_RANDOM = 8
"""Random sets of ten, the same for every class."""
BATCH_SIZE, MAX_ROWS, N_WORKERS = 16, 96, 2


def pilot(file: Hypothesis, folder: str, head: str, root: str, weights: str) -> dict[str, float]:
    """Means over classes, per cent: fall of the class's accuracy and change of other images; first the
    length of the edit of ten latents at −1, over the root mean square distance of tokens from their mean.

    Args:
        folder: of the dictionary.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sae = SparseAutoencoder.from_pretrained(folder)
    backbone = backbone_of(sae, folder, weights=weights, head=load_head(head))
    source = FolderImages([root])
    readout = make_readout(head, backbone, source)
    if readout.per != "image":
        raise UserError(f"the head in {head} answers per {readout.per}: give one of whole images")
    setting = Setting(file, sae, backbone, readout, source, BATCH_SIZE, MAX_ROWS, N_WORKERS, device)
    items, _ = choose_images(setting)
    n_discovery = 2 * len(items) // 3
    found = discover(setting, items[:n_discovery])
    proposals = Proposer(setting, found).propose(tested_columns(setting, found))
    test = read_test_images(setting, items[n_discovery:])
    plan = ArmPlan(setting, found, proposals, N_RANDOM)
    keys = {(p.concept, arm): edits for p in proposals for arm, edits in _edits(plan, p).items()}
    images_of = {p.concept: hypothesis_images(setting, p, test) for p in proposals}
    tallies = Runner(setting, test).run(plan.jobs, images_of)
    row = {"length": _length(plan, proposals) / float(found.covariance.trace().sqrt())}
    for arm in _edits(plan, proposals[0]):
        cells = [
            _changes(tallies[key], test, np.flatnonzero(images_of[p.concept]), p, readout)
            for p in proposals
            for key in keys[p.concept, arm]
        ]
        fall, change = 100 * np.mean(cells, axis=0)
        row |= {f"{arm}, accuracy falls": float(fall), f"{arm}, others change": float(change)}
    return row


def _edits(plan: ArmPlan, p: Proposal) -> dict[str, list[Hashable]]:
    """The jobs of every column of the table."""
    arms = {
        f"{n} at {scale:g}": [plan.latents_key(p.latents[n], scale, plan.owner(p))]
        for n, scale in SETTINGS
    }
    random = [plan.latents_key(latents, -1.0, None) for latents in plan.pool.sets[:N_RANDOM]]
    return arms | {"random": random}


def _length(plan: ArmPlan, proposals: Sequence[Proposal]) -> float:
    """What setting ten latents to their largest code adds to a token where none of them fires: its
    norm, mean over classes."""
    sae, largest = plan.saes["sae"], plan.largest["sae"]
    picked = [list(p.latents[SETTINGS[-1][0]]) for p in proposals]
    deltas = torch.stack([largest[some] @ sae.W_dec[some] for some in picked]) / sae.scale
    return float(deltas.norm(dim=-1).mean())


def _changes(
    tally: Tally, test: TestSet, images: np.ndarray, p: Proposal, readout: Readout
) -> tuple[float, float]:
    clean, tally = test.clean.take(images), tally.take(images)
    ask = Question(p.column, "accuracy", "decrease", readout.groups, ())
    return ask.effect(tally, clean), other_change(tally, clean, p.column, readout.groups)


def pilot_of(file: Hypothesis) -> Hypothesis:
    """The file with what its pilot needs: random sets of the largest size, and nothing tested."""
    sizes = tuple(sorted({n for n, _ in SETTINGS}))
    return replace(
        file, selector=Selector(file.selector.by, sizes[-1]), draws=N_RANDOM, layer=None,
        table=replace(file.table, n_latents=sizes), shuffles=1, directions=19, metric="accuracy",
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("hypothesis")
    parser.add_argument("--sae", nargs="+", required=True, help="folders of dictionaries")
    for name in ("head", "root", "weights"):
        parser.add_argument(f"--{name}", required=True)
    args = parser.parse_args()
    try:
        file = pilot_of(read_hypothesis(args.hypothesis, None)[0])
        for number, folder in enumerate(args.sae):
            row = pilot(file, folder, args.head, args.root, args.weights)
            if not number:
                print("| dictionary | " + " | ".join(row) + " |\n|" + "---|" * (len(row) + 1))
            cells = " | ".join(f"{value:.1f}" for value in row.values())
            print(f"| {folder} | {cells} |", flush=True)
    except UserError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
