"""Injected effects: for a set of latents a known effect on a concept, in five strengths.

Suffixes: n test images, u units, c columns.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float

from saev.intervention.arms.injection import Injection, median_margin
from saev.intervention.choose.proposals import Latents, Proposal
from saev.intervention.judge.placebo import STRENGTHS
from saev.intervention.result import ExperimentResult


class InjectedEffects:
    """Makes the injections of an experiment's model."""

    def __init__(self, result: ExperimentResult) -> None:
        self.result, self.file, self.plan = result, result.setting.file, result.plan

    def of(
        self, latents: Latents, proposals: Sequence[Proposal]
    ) -> dict[tuple[str, float], Injection]:
        """By concept and strength. Each path reads the direction in which the edit of these latents
        goes, so that the edit moves the class as the file expects; at strength 1 an edit of its mean
        length moves the logit by the median margin."""
        if not proposals:
            return {}
        setting = self.result.setting
        towards = self.file.pushes * self.plan.towards(latents)
        per, positions = setting.readout.per, setting.edited_tokens.positions
        if per == "patch":
            positions = setting.backbone.token_indices("patch")
        pushes = 1.0 if self.file.direction == "increase" else -1.0
        length = self._length(latents)
        return {
            (p.concept, strength): Injection(
                p.column,
                towards / towards.norm(),
                pushes * strength * margin / length,
                positions.to(setting.device),
                per,
                self.result.images_of[p.concept],
            )
            for p in proposals
            if np.isfinite(margin := self.margins[p.concept])
            for strength in STRENGTHS
        }

    def _length(self, latents: Latents) -> float:
        """Of the edit, the mean over the tokens of a batch of test images that it changes."""
        n = min(self.result.test.batch_size, self.result.test.n_images)
        encoded = self.result.runner.batch(np.arange(n)).encoded["sae"]
        delta, changed = self.plan.steering(latents, self.file.scale, mode="add").delta(encoded)
        return float(delta[changed].norm(dim=-1).mean())

    @cached_property
    def margins(self) -> dict[str, float]:
        """Of each concept the median margin on its test images; nan where none is predicted."""
        logits, readout = _clean_logits(self.result), self.result.setting.readout
        found = {}
        for p in self.result.proposals:
            images = np.flatnonzero(self.result.images_of[p.concept])
            group = readout.groups.of(p.column)
            base = self.result.test.base[images, :, group].numpy()
            span = readout.groups.spans[group]
            margin = median_margin(logits[images], base, span, p.column, self.file.direction)
            found[p.concept] = margin
        return found


@torch.no_grad()
def _clean_logits(result: ExperimentResult) -> Float[np.ndarray, "n u c"]:
    setting = result.setting
    parts = [
        setting.readout.of_acts(setting.backbone, acts.to(setting.device), setting.layer).cpu()
        for acts in result.test.acts.split(result.test.batch_size)
    ]
    return torch.cat(parts).float().numpy()
