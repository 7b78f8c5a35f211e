"""A controlled experiment from beginning to end: discover, register, read the test images, judge."""

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from omegaconf import DictConfig

from datamodules.images import ImageItem, ImageSource
from saev.backbones import Backbone
from saev.editing.hypothesis import HypothesisFile, digest, refuse_overlap
from saev.editing.statistics import draws_needed, images_needed
from saev.editing.steering import Tokens
from saev.editing.tally import Question, Tally
from saev.editing.verdict import Evidence, Verdict, judge
from saev.errors import UserError
from saev.experiment.control.arms import ArmPlan
from saev.experiment.control.attribution import attribute
from saev.experiment.control.calibration import Calibration, calibrate
from saev.experiment.control.discovery import Discovery, discover
from saev.experiment.control.intervention import Runner, TestSet, read_test_images
from saev.experiment.control.proposal import Proposal, Proposer, concepts_of
from saev.experiment.control.readout import Readout
from saev.experiment.evaluation import check_belongs
from saev.sae import SparseAutoencoder


@dataclass(frozen=True)
class Setting:
    """What an experiment works with."""

    file: HypothesisFile
    sae: SparseAutoencoder
    backbone: Backbone
    readout: Readout
    source: ImageSource
    batch_size: int
    max_rows: int
    num_workers: int
    device: torch.device

    @property
    def layer(self) -> int:
        assert self.sae.cfg.layer is not None
        return self.sae.cfg.layer


@dataclass
class Outcome:
    """Everything an experiment found."""

    setting: Setting
    discovery: Discovery
    proposals: list[Proposal]
    plan: ArmPlan
    test: TestSet
    images_of: dict[str, Bool[np.ndarray, " n"]]
    """Test images of each hypothesis."""
    tallies: dict[Hashable, Tally]
    verdicts: list[Verdict]
    left_out: dict[str, str]
    """Concepts that were proposed and could not be tested, with the reason."""
    registered_sha256: str
    calibration: Calibration | None = None
    runner: Runner | None = field(default=None, repr=False)

    def question(self, concept: str) -> Question:
        """What is asked of a concept; its peers are those that the test images show enough of."""
        file, groups = self.setting.file, self.setting.readout.groups
        column = self.setting.readout.column(concept)
        needed = file.support.n_test_units if self.setting.readout.per == "patch" else 1
        shown = self.test.clean.n_base.sum(0) >= needed
        peers = tuple(c for c in groups.peers(column) if shown[c])
        return Question(column, file.metric, file.direction, groups, peers)


def run_experiment(setting: Setting, register: Callable[[dict[str, Any], str], None]) -> Outcome:
    """Runs all hypotheses of a file.

    ``register`` receives what is about to be tested (the file, every hypothesis with its latents)
    and its SHA-256 after the discovery images were read and before any test image is.

    Raises:
        UserError: the dictionary belongs to another backbone or block; images that overlap; an
            unknown class or dead latent; too few images or draws for α after correction.
    """
    file = setting.file
    _check_dictionary(setting)
    discovery_items, test_items = choose_images(file, setting.source, setting.readout)
    saes = {"sae": setting.sae, "untrained": setting.sae.untrained(file.seed)}
    discovery = discover(
        setting.sae, saes["untrained"], setting.backbone, _discovery_tokens(setting),
        setting.readout, setting.source, discovery_items, purity=file.support.purity,
        batch_size=setting.batch_size, num_workers=setting.num_workers, device=setting.device,
    )  # fmt: skip
    if file.selector.by == "attribution":
        discovery.attribution = attribute(
            setting.sae, setting.backbone, setting.readout, setting.source, discovery_items,
            setting.batch_size, setting.num_workers, setting.device,
        )  # fmt: skip
    proposer = Proposer(file, discovery, setting.readout)
    columns = concepts_of(file, discovery, setting.readout)
    _check_draws(file, proposer.n, len(columns), len(discovery.units["sae"].stats.alive))
    proposals = proposer.propose(columns)
    registered = {
        "file": file.to_dict(),
        "hypotheses": [p.to_dict() for p in proposals],
        "test_images": [item.image_id for item in test_items],
    }
    register(registered, digest(registered))
    return _test(setting, saes, discovery, proposer, proposals, test_items, digest(registered))


def _test(
    setting: Setting,
    saes: dict[str, SparseAutoencoder],
    discovery: Discovery,
    proposer: Proposer,
    proposals: list[Proposal],
    test_items: list[ImageItem],
    registered_sha256: str,
) -> Outcome:
    file = setting.file
    test = read_test_images(
        setting.backbone, setting.layer, setting.readout, setting.source, test_items,
        batch_size=setting.batch_size, num_workers=setting.num_workers, device=setting.device,
    )  # fmt: skip
    proposals, left_out = _with_support(setting, proposals, test)
    columns = [p.column for p in proposals]
    repeats = [proposer.recalibrate(columns) for _ in range(file.calibration)]
    also = [latents for repeat in repeats for latents, _ in repeat.values()]
    n_draws = file.draws or draws_needed(file.alpha, len(proposals))
    tokens = Tokens.of(setting.backbone, file.tokens).to(setting.device)
    plan = ArmPlan(file, proposals, discovery, setting.readout, saes, tokens, n_draws, also)
    _check_pool(plan, n_draws, len(discovery.units["sae"].stats.alive))
    plan.build()
    shuffled_keys = [
        {
            p.concept: plan.latents_key(repeat[p.column][0], file.scale, plan.owner(p))
            for p in proposals
        }
        for repeat in repeats
    ]
    if repeats:  # what was chosen on shuffled labels is judged against the whole pool
        for latents in plan.pool.sets:
            plan.latents_key(latents, file.scale, None)
    if "gradcam_pixels" in file.baselines:
        from saev.experiment.control.gradcam import add_gradcam

        add_gradcam(plan, setting.backbone, setting.layer, setting.readout, setting.source, test)
    images_of = {p.concept: _images_of(file, setting.readout, p, test) for p in proposals}
    runner = Runner(
        setting.backbone, setting.layer, setting.readout, saes, tokens, test,
        max_rows=setting.max_rows, device=setting.device,
    )  # fmt: skip
    tallies = runner.run(plan.jobs, images_of)
    outcome = Outcome(
        setting, discovery, proposals, plan, test, images_of, tallies, [], left_out,
        registered_sha256, runner=runner,
    )  # fmt: skip
    _check_identity(outcome)
    evidence = {p.concept: evidence_of(outcome, p) for p in proposals}
    latents = {p.concept: list(p.tried[0]) for p in proposals}
    outcome.verdicts = judge(evidence, latents, file.alpha, file.smallest_effect, file.seed)
    if repeats:
        chosen = [{p.concept: repeat[p.column] for p in proposals} for repeat in repeats]
        outcome.calibration = calibrate(
            evidence, outcome.verdicts, plan, tallies, images_of, chosen, shuffled_keys, file
        )
    return outcome


def evidence_of(outcome: Outcome, p: Proposal) -> Evidence:
    """The tallies of one hypothesis's tested arms, on its own images."""
    images = np.flatnonzero(outcome.images_of[p.concept])
    clean = outcome.test.clean.take(images)
    ask = outcome.question(p.concept)

    def of(arm: str) -> list[Tally]:
        return [
            outcome.tallies[use.key]
            for use in outcome.plan.uses
            if use.concept == p.concept and use.arm == arm and use.tested
        ]

    tried = [tally.take(images) for tally in of("selected")]
    best = max(tried, key=lambda tally: ask.effect(tally, clean))
    directions = {
        arm: Tally.stack(of(arm), images) for arm in ("random_direction", "covariance_direction")
    }
    random = Tally.stack(of("random_latents"), images)
    return Evidence(ask, clean, best, random, directions, len(tried), p.p_selection)


# --- images -----------------------------------------------------------------------------------


def choose_images(
    file: HypothesisFile, source: ImageSource, readout: Readout
) -> tuple[list[ImageItem], list[ImageItem]]:
    """The discovery and the test images; raises ``UserError`` when one is in both or none is."""
    images = file.images
    found = []
    for name, which, limit in (
        ("discovery", images.discovery, images.n_discovery), ("test", images.test, images.n_test)
    ):  # fmt: skip
        items = _items(source, which, f"images.{name}")
        if readout.per == "image":
            items = _in_turn([item for item in items if item.label is not None])
        found.append(items[:limit])
    discovery, test = found
    refuse_overlap([item.image_id for item in discovery], [item.image_id for item in test])
    for name, items in (("discovery", discovery), ("test", test)):
        if not items:
            raise UserError(
                f"images.{name}={getattr(images, name)} holds no images of {source.name!r}: name a "
                "split that it has"
            )
    return discovery, test


def _items(source: ImageSource, which: str | tuple[str, ...], name: str) -> list[ImageItem]:
    if isinstance(which, str):
        try:
            return source.split(which) if which != "train" else source.split("train")
        except ValueError as error:
            raise UserError(f"{name}: {error}") from error
    by_id = {item.image_id: item for item in source.items}
    unknown = [image_id for image_id in which if image_id not in by_id]
    if unknown:
        raise UserError(
            f"{name} names the image {unknown[0]!r}, which {source.name!r} does not have"
        )
    return [by_id[image_id] for image_id in which]


def _in_turn(items: list[ImageItem]) -> list[ImageItem]:
    """One of each class in turn, so that a limit keeps classes in balance."""
    seen: dict[int | None, int] = {}
    places = []
    for item in items:
        places.append(seen.get(item.label, 0))
        seen[item.label] = places[-1] + 1
    return [item for _, item in sorted(zip(places, items, strict=True), key=lambda pair: pair[0])]


def _images_of(file: HypothesisFile, readout: Readout, p: Proposal, test: TestSet) -> np.ndarray:
    """All test images for heads that answer per patch; else the class's and ``n_other`` others."""
    if readout.per == "patch":
        return np.ones(test.n_images, bool)
    own = test.clean.n_base[:, p.column] > 0
    others = np.flatnonzero(~own)[: file.images.n_other]
    own[others] = True
    return own


# --- what is refused --------------------------------------------------------------------------


def _check_dictionary(setting: Setting) -> None:
    file, sae = setting.file, setting.sae
    check_belongs(sae, setting.backbone)
    if file.layer is not None and setting.backbone.resolve_layer(file.layer) != setting.layer:
        raise UserError(
            f"the hypothesis is about block {file.layer} and the SAE was trained on block "
            f"{setting.layer}: give an SAE of that block, or change layer in the hypothesis"
        )
    if setting.readout.per == "patch" and not _reads_patches(sae):
        raise UserError(
            f"the head answers per patch and the SAE reads {(sae.cfg.tokens or {}).get('which')} "
            "tokens: give an SAE trained on tokens.which=patch"
        )


def _reads_patches(sae: SparseAutoencoder) -> bool:
    return (sae.cfg.tokens or {"which": "patch"})["which"] in ("patch", "all")


def _discovery_tokens(setting: Setting) -> Tokens:
    which = "patch" if _reads_patches(setting.sae) else (setting.sae.cfg.tokens or {})["which"]
    return Tokens.of(setting.backbone, which).to(setting.device)


def _check_draws(file: HypothesisFile, n_latents: int, n_hypotheses: int, n_alive: int) -> None:
    """Before any test image: draws that could never reach α, or that the dictionary cannot give."""
    needed = draws_needed(file.alpha, n_hypotheses)
    if file.draws is not None and file.draws < needed:
        raise UserError(
            f"draws={file.draws} can never give p ≤ {file.alpha} / {n_hypotheses} after correction: "
            f"use draws={needed} or more, or null"
        )
    too_many = n_latents > n_alive  # the proposer says so
    if not too_many and math.comb(n_alive - n_latents, n_latents) < (file.draws or needed):
        raise _too_few_sets(file.draws or needed, n_alive)


def _check_pool(plan: ArmPlan, n_draws: int, n_alive: int) -> None:
    fewest = min(len(plan.pool.match(p.tried[0]).draws) for p in plan.proposals)
    if fewest < n_draws:
        raise _too_few_sets(n_draws, n_alive)


def _too_few_sets(n_draws: int, n_alive: int) -> UserError:
    return UserError(
        f"{n_draws} matched random sets are needed and the {n_alive} alive latents of this SAE give "
        "fewer: test fewer concepts, raise alpha, or use a wider dictionary"
    )


def _with_support(
    setting: Setting, proposals: list[Proposal], test: TestSet
) -> tuple[list[Proposal], dict[str, str]]:
    """The hypotheses that the test images can speak to; a concept named by hand must be one."""
    file, n_base = setting.file, test.clean.n_base
    needed = images_needed(file.alpha, len(proposals))
    kept, left_out = [], {}
    for p in proposals:
        n_images, n_units = int((n_base[:, p.column] > 0).sum()), int(n_base[:, p.column].sum())
        reason = None
        if n_images < needed:
            reason = (
                f"{n_images} test images show it and {needed} are needed to reach α = {file.alpha} "
                f"over {len(proposals)} hypotheses"
            )
        elif setting.readout.per == "patch" and n_units < file.support.n_test_units:
            reason = f"{n_units} test patches show it and {file.support.n_test_units} are needed"
        if reason is None:
            kept.append(p)
        elif file.concept == "all":
            left_out[p.concept] = reason
        else:
            raise UserError(f"too few images for {p.concept!r}: {reason}; give more test images")
    if not kept:
        raise UserError(
            f"no concept has enough test images: {needed} are needed of each to reach "
            f"α = {file.alpha} over {len(proposals)} hypotheses"
        )
    return kept, left_out


def _check_identity(outcome: Outcome) -> None:
    """An identity edit that changes anything means that nothing else can be trusted."""
    for use in outcome.plan.uses:
        if use.arm != "identity":
            continue
        images = np.flatnonzero(outcome.images_of[use.concept])
        same = all(
            np.array_equal(found, clean)
            for found, clean in zip(
                outcome.tallies[use.key].take(images),
                outcome.test.clean.tally.take(images),
                strict=True,
            )
        )
        if not same:
            raise RuntimeError(
                f"the identity edit changed predictions on images of {use.concept!r}"
            )


def setting_of(
    cfg: DictConfig, file: HypothesisFile, sae: SparseAutoencoder, backbone: Backbone,
    readout: Readout, source: ImageSource, device: torch.device,
) -> Setting:  # fmt: skip
    """A setting from ``conf/intervene.yaml``."""
    run = cfg.intervention
    backbone.to(device)
    return Setting(
        file, sae.to(device).eval(), backbone, readout.to(device), source,
        run.batch_size, run.max_rows, run.num_workers, device,
    )  # fmt: skip
