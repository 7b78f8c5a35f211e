"""Injected effects: for a set of latents a known effect on a concept, in five strengths.

Suffixes: n test images, u units, c columns.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saev.intervention.arms.injection import Injection, fitting_slope, margins
from saev.intervention.choose.proposals import Latents, Proposal
from saev.intervention.judge.placebo import STRENGTHS
from saev.intervention.result import ExperimentResult


class _Edited(NamedTuple):
    """What the edit does by itself; NaN on images that it was not run on."""

    logits: Float[np.ndarray, "n u c"]
    along: Float[np.ndarray, "n u"]
    """How far the stream of each unit moves along the direction that a path reads."""


class InjectedEffects:
    """Makes the injections of an experiment's model."""

    def __init__(self, result: ExperimentResult) -> None:
        self.result, self.file, self.plan = result, result.setting.file, result.plan

    def of(
        self, latents: Latents, proposals: Sequence[Proposal]
    ) -> dict[tuple[str, float], Injection]:
        """By concept and strength. Each path reads the direction in which the edit of these latents
        goes, so that the edit moves the class as the file expects. It is as steep as makes the whole
        effect of the edit, what it does by itself included, lower the median margin of the units that
        it reaches by ``strength`` times itself; concepts without such units are left out."""
        if not proposals:
            return {}
        setting, images_of = self.result.setting, self.result.images_of
        towards = self.file.pushes * self.plan.towards(latents)
        path = Injection(
            0, towards / towards.norm(), 0.0, self._positions, setting.readout.per,
            np.any([images_of[p.concept] for p in proposals], 0),
        )  # fmt: skip
        edited = self._edited(latents, path)
        sign = 1.0 if self.file.direction == "increase" else -1.0
        found = {}
        for p in proposals:
            for strength in STRENGTHS:
                slope = self._slope(p, edited, strength)
                if np.isfinite(slope):
                    found[p.concept, strength] = path.towards_class(
                        p.column, sign * slope, images_of[p.concept]
                    )
        return found

    def _slope(self, p: Proposal, edited: _Edited, strength: float) -> float:
        images = np.flatnonzero(self.result.images_of[p.concept])
        groups = self.result.setting.readout.groups
        group = groups.of(p.column)
        base = self.result.test.base[images, :, group].numpy()
        before, after = (
            margins(logits[images], base, groups.spans[group], p.column, self.file.direction)
            for logits in (self._clean_logits, edited.logits)
        )
        looked_at = before > 0
        return fitting_slope(
            before[looked_at], after[looked_at], edited.along[images][looked_at], strength
        )

    @property
    def _positions(self) -> Int[Tensor, " p"]:
        setting = self.result.setting
        positions = setting.edited_tokens.positions
        if setting.readout.per == "patch":
            positions = setting.backbone.token_indices("patch")
        return positions.to(setting.device)

    @torch.no_grad()
    def _edited(self, latents: Latents, path: Injection) -> _Edited:
        setting, runner = self.result.setting, self.result.runner
        steering = self.plan.steering(latents, self.file.scale)
        logits = np.full_like(self._clean_logits, np.nan)
        along = np.full(logits.shape[:2], np.nan, np.float32)
        chosen = np.flatnonzero(path.images)
        for first in range(0, len(chosen), self.result.test.batch_size):
            images = chosen[first : first + self.result.test.batch_size]
            encoded = runner.batch(images).encoded["sae"]
            acts = steering.steer(encoded)
            found = setting.readout.of_acts(setting.backbone, acts, setting.layer)
            logits[images] = found.float().cpu().numpy()
            along[images] = path.along(acts - encoded.acts).float().cpu().numpy()
        return _Edited(logits, along)

    @cached_property
    @torch.no_grad()
    def _clean_logits(self) -> Float[np.ndarray, "n u c"]:
        setting, test = self.result.setting, self.result.test
        parts = [
            setting.readout.of_acts(setting.backbone, acts.to(setting.device), setting.layer).cpu()
            for acts in test.acts.split(test.batch_size)
        ]
        return torch.cat(parts).float().numpy()
