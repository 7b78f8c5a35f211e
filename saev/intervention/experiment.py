"""A controlled experiment from beginning to end: discover, register, read the test images, judge."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool

from datamodules.images import ImageItem
from saev.editing.tokens import Tokens
from saev.intervention.arms.arms import ArmPlan
from saev.intervention.arms.runner import Runner, TestSet, read_test_images
from saev.intervention.checks import check_dictionary, check_draws, check_pool, with_support
from saev.intervention.choose.attribution import attribute
from saev.intervention.choose.discovery import Discovery, discover
from saev.intervention.choose.proposals import Proposal, Proposer, concepts_of
from saev.intervention.hypothesis import digest
from saev.intervention.judge.calibration import Calibration, calibrate
from saev.intervention.judge.tally import Question, Tally
from saev.intervention.judge.verdict import Evidence, Verdict, judge
from saev.intervention.setting import Setting
from saev.intervention.splits import choose_images, images_for
from saev.sae import SparseAutoencoder
from saev.stats.correction import draws_needed


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
    check_dictionary(setting)
    discovery_items, test_items = choose_images(file, setting.source, setting.readout)
    saes = {"sae": setting.sae, "untrained": setting.sae.untrained(file.seed)}
    discovery = discover(
        setting.sae, saes["untrained"], setting.backbone, setting.discovery_tokens,
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
    check_draws(file, proposer.n, len(columns), len(discovery.units["sae"].stats.alive))
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
    proposals, left_out = with_support(setting, proposals, test)
    columns = [p.column for p in proposals]
    repeats = [proposer.recalibrate(columns) for _ in range(file.calibration)]
    also = [latents for repeat in repeats for latents, _ in repeat.values()]
    n_draws = file.draws or draws_needed(file.alpha, len(proposals))
    tokens = Tokens.of(setting.backbone, file.tokens).to(setting.device)
    plan = ArmPlan(file, proposals, discovery, setting.readout, saes, tokens, n_draws, also)
    check_pool(plan, n_draws, len(discovery.units["sae"].stats.alive))
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
        from saev.intervention.arms.gradcam import add_gradcam

        add_gradcam(plan, setting.backbone, setting.layer, setting.readout, setting.source, test)
    images_of = {p.concept: images_for(file, setting.readout, p, test) for p in proposals}
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
