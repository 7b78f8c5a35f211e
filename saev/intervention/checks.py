"""What a controlled experiment refuses: one sentence each, before anything is measured in vain."""

import math

from saev.errors import UserError
from saev.intervention.arms.arms import ArmPlan
from saev.intervention.arms.runner import TestSet
from saev.intervention.choose.proposals import Proposal
from saev.intervention.hypothesis import HypothesisFile
from saev.intervention.setting import Setting
from saev.loading import check_belongs
from saev.stats.correction import draws_needed, images_needed


def check_dictionary(setting: Setting) -> None:
    file, sae = setting.file, setting.sae
    check_belongs(sae, setting.backbone)
    if file.layer is not None and setting.backbone.resolve_layer(file.layer) != setting.layer:
        raise UserError(
            f"the hypothesis is about block {file.layer} and the SAE was trained on block "
            f"{setting.layer}: give an SAE of that block, or change layer in the hypothesis"
        )
    if setting.readout.per == "patch" and not setting.reads_patches:
        raise UserError(
            f"the head answers per patch and the SAE reads {(sae.cfg.tokens or {}).get('which')} "
            "tokens: give an SAE trained on tokens.which=patch"
        )


def check_draws(file: HypothesisFile, n_latents: int, n_hypotheses: int, n_alive: int) -> None:
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


def check_pool(plan: ArmPlan, n_draws: int, n_alive: int) -> None:
    fewest = min(len(plan.pool.match(p.tried[0]).draws) for p in plan.proposals)
    if fewest < n_draws:
        raise _too_few_sets(n_draws, n_alive)


def _too_few_sets(n_draws: int, n_alive: int) -> UserError:
    return UserError(
        f"{n_draws} matched random sets are needed and the {n_alive} alive latents of this SAE give "
        "fewer: test fewer concepts, raise alpha, or use a wider dictionary"
    )


def with_support(
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
