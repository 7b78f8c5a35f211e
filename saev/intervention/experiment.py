"""Controlled experiment from beginning to end: choose, register, run the arms, judge."""

from collections.abc import Callable
from typing import Any

from datamodules.images import ImageItem
from saev.intervention.arms.arms import ArmPlan
from saev.intervention.arms.gradcam import add_gradcam
from saev.intervention.arms.matched_latents import check_draws
from saev.intervention.arms.runner import Runner, read_test_images
from saev.intervention.choose.attribution import attribute
from saev.intervention.choose.discovery import Discovery, discover
from saev.intervention.choose.effects import atom_effects, margin_gradients
from saev.intervention.choose.proposals import Latents, Proposal, Proposer, tested_columns
from saev.intervention.hypothesis import MIN_DRAWS, digest
from saev.intervention.judge.calibration import calibrate
from saev.intervention.judge.placebo import marked
from saev.intervention.judge.verdict import Criteria, judge
from saev.intervention.placebo_hypotheses import draw_candidates, run_placebo
from saev.intervention.result import ExperimentResult
from saev.intervention.setting import Setting
from saev.intervention.splits import choose_images, hypothesis_images, with_support
from saev.sae.weights_digest import weights_sha256
from saev.stats.correction import draws_needed

Register = Callable[[dict[str, Any], str], object]


def run_setting(setting: Setting, register: Register | None = None) -> ExperimentResult:
    """Runs all hypotheses of a file.

    ``register`` receives what is about to be tested (the file, every hypothesis with its latents)
    and its SHA-256 after the discovery images were read and before any test image is.

    Raises:
        UserError: the dictionary belongs to another backbone or block; images that overlap; an
            unknown class or dead latent; too few images or draws for α after correction.
    """
    setting.check()
    discovery_items, test_items = choose_images(setting)
    discovery = discover(setting, discovery_items)
    if setting.file.selector.by == "attribution":
        discovery.attribution = attribute(setting, discovery_items)
    if setting.file.selector.by == "effect":
        discovery.effects = atom_effects(setting, margin_gradients(setting, discovery_items))
    proposer = Proposer(setting, discovery)
    columns = tested_columns(setting, discovery)
    check_draws(setting.file, proposer.n, len(columns), len(proposer.alive["sae"]))
    proposals = proposer.propose(columns)
    registered = {
        "dictionary": weights_sha256(setting.sae),
        "file": setting.file.to_dict(),
        "hypotheses": [p.to_dict() for p in proposals],
        "test_images": [item.image_id for item in test_items],
    }
    placebo: list[Latents] = []
    if setting.file.placebo:
        placebo = draw_candidates(setting.file, discovery, proposals)
        registered["placebo"] = [list(latents) for latents in placebo]
    sha256 = digest(registered)
    if register is not None:
        register(registered, sha256)
    return _test(setting, discovery, proposer, proposals, placebo, test_items, sha256)


def _test(
    setting: Setting, discovery: Discovery, proposer: Proposer, proposals: list[Proposal],
    placebo: list[Latents], test_items: list[ImageItem], sha256: str,
) -> ExperimentResult:  # fmt: skip
    """The test images: every edit of every arm, then the verdicts."""
    file = setting.file
    test = read_test_images(setting, test_items)
    proposals, left_out = with_support(setting, proposals, test)
    columns = [p.column for p in proposals]
    repeats = [proposer.recalibrate(columns) for _ in range(file.calibration)]
    n_draws = file.draws or max(draws_needed(file.alpha, len(proposals)), MIN_DRAWS)
    plan = ArmPlan(setting, discovery, proposals, n_draws, repeats, placebo)
    plan.build()
    if "gradcam_pixels" in file.baselines:
        add_gradcam(plan, setting, test)
    images_of = {p.concept: hypothesis_images(setting, p, test) for p in proposals}
    runner = Runner(setting, test)
    tallies = runner.run(plan.jobs, images_of)
    result = ExperimentResult(
        setting, discovery, proposals, left_out, sha256, plan, test, images_of, runner, tallies
    )
    result.check_identity()
    evidence = {p.concept: result.evidence(p) for p in proposals}
    latents = {p.concept: list(p.tried[0]) for p in proposals}
    criteria = Criteria(file.alpha, file.smallest_effect, file.max_ratio)
    result.verdicts = judge(evidence, latents, criteria, file.seed)
    if repeats:
        result.calibration = calibrate(evidence, criteria, plan, tallies, images_of)
    if placebo:
        result.placebo = run_placebo(result, placebo, criteria)
        result.verdicts = marked(result.verdicts, result.placebo)
    return result
