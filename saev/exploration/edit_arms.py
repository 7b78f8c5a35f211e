"""Arms of one edit on one image: the selected latents, and control edits of the same size.

They are what :mod:`saev.intervention` runs for the same latents. Suffixes: k draws, t tokens, d width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saev.editing.code_edits import CodeEdit, edited_latents
from saev.editing.directions import MatchedDirection, diffmean_direction
from saev.editing.edits import edit_to_dict
from saev.editing.tap_edit import TapEdit
from saev.editing.tokens import Encoded, Tokens
from saev.exploration.start_up import StartUp
from saev.intervention.arms.matched_latents import AlikePool, RandomPool, UniformPool, rounded_dose
from saev.intervention.choose.selectors import select_latents
from saev.intervention.hypothesis import Hypothesis, Selector
from saev.intervention.setting import Setting

N_DRAWS = 8
"""Random latents, or sets of them, that one edit is compared with."""
UNTRAINED = 3
"""Dictionaries that were never trained."""
SELECTOR = Selector().by


@dataclass(frozen=True)
class Arm:
    """A control, or why there is none."""

    streams: Float[Tensor, "k t d"] | None = None
    """The edited stream of each draw."""
    absent: str | None = None


class EditArms:
    """Makes the arms of any list of edits, from what the start-up images say."""

    def __init__(self, setting: Setting, start: StartUp, tokens: Tokens) -> None:
        self.setting, self.start, self.tokens = setting, start, tokens
        self.largest = {
            which: torch.from_numpy(units.stats.largest).float().to(setting.device)
            for which, units in start.discovery.units.items()
        }
        for which in setting.untrained:  # the first edit need not wait for the scores
            for group in range(len(setting.readout.groups.spans)):
                self._scores(which, group)

    def selected(self, edits: Sequence[CodeEdit]) -> TapEdit:
        """The edits as they are."""
        return TapEdit(self.setting.sae, edits, self.largest["sae"], self.tokens)

    # --- random latents -----------------------------------------------------------------------

    def random(
        self, edits: Sequence[CodeEdit], encoded: Encoded, mask: Bool[Tensor, "b p"] | None
    ) -> Arm:
        """The same edits of latents drawn at random, at the dose of the selected ones.

        Latents whose edits have an amount take the same codes; of latents whose codes change as they
        are (ablate, scale) others are drawn that fire as often and as strongly.
        """
        dosed = edited_latents([edit for edit in edits if edit.has_unit])
        alike = tuple(k for k in edited_latents(edits) if k not in dosed)
        dead = [k for k in edited_latents(edits) if self.start.stats.largest[k] == 0]
        if dead:
            n_images = len(self.start.items)
            return Arm(absent=f"latent {dead[0]} fires on none of the {n_images} start-up images")
        drawn = [self._draws(UniformPool, dosed, alike), self._draws(AlikePool, alike, dosed)]
        n_draws = min(len(sets) for sets in drawn)
        if n_draws < N_DRAWS:
            n_alive = len(self.start.stats.alive)
            return Arm(
                absent=f"the {n_alive} latents that fire give fewer than {N_DRAWS} such sets"
            )
        largest = self.largest["sae"]
        if dosed:
            dose = rounded_dose(largest[list(dosed)].cpu().numpy())
            largest = torch.full_like(largest, dose)
        streams = []
        for one, other in zip(*drawn, strict=True):
            new = dict(zip((*dosed, *alike), (*one, *other), strict=True))
            moved = [replace(e, latents=tuple(new[k] for k in e.latents)) for e in edits]
            tap = TapEdit(self.setting.sae, moved, largest, self.tokens)
            streams.append(tap.steer(encoded, mask))
        return Arm(torch.cat(streams))

    def _draws(
        self, kind: type[UniformPool] | type[AlikePool], latents: tuple[int, ...],
        others: tuple[int, ...],
    ) -> list[tuple[int, ...]]:  # fmt: skip
        """Sets in place of some of the latents, without any that is edited."""
        if not latents:
            return [()] * N_DRAWS
        stats = self.start.stats
        if len(latents) + len(others) > len(stats.alive):
            return []
        rng = np.random.default_rng([self.setting.file.seed, 2])
        more = N_DRAWS if not others else 4 * N_DRAWS
        pool: RandomPool = kind(stats, [latents], more, rng)
        sets = [pool.sets[r] for r in pool.draws(latents, more)]
        return [drawn for drawn in sets if set(drawn).isdisjoint(others)][:N_DRAWS]

    # --- directions of equal length -----------------------------------------------------------

    def diffmean(
        self, edits: Sequence[CodeEdit], concept: str, encoded: Encoded,
        mask: Bool[Tensor, "b p"] | None,
    ) -> Arm:  # fmt: skip
        """The class's mean activation minus that of the others, as long at every token as the edit."""
        column = self._column(concept)
        found = self.start.discovery
        if column is None or not bool(found.class_mean[column].isfinite().all()):
            return Arm(absent=self._no_labels(concept))
        towards = diffmean_direction(found.class_mean[column], found.rest_mean[column])
        if not bool(towards.isfinite().all()):
            return Arm(absent=self._no_labels(concept))
        return Arm(self._along([towards], edits, encoded, mask))

    def untrained(
        self, edits: Sequence[CodeEdit], concept: str, encoded: Encoded,
        mask: Bool[Tensor, "b p"] | None,
    ) -> Arm:  # fmt: skip
        """The latents that predict the class best in dictionaries that were never trained, as long at
        every token as the edit."""
        column, n = self._column(concept), len(edited_latents(edits))
        if column is None:
            return Arm(absent=self._no_labels(concept))
        group = self.setting.readout.groups.of(column)
        directions = []
        for which in self.setting.untrained:
            alive = self.start.discovery.units[which].stats.alive
            scores = self._scores(which, group)
            if scores is None or not np.isfinite(scores[:, column]).any():
                return Arm(absent=self._no_labels(concept))
            if n > len(alive):
                return Arm(absent=f"of the untrained dictionary {len(alive)} latents fire")
            table = self.start.discovery.table(which, group)
            chosen = list(select_latents(SELECTOR, table, scores, column, n, alive))
            atoms = self.setting.saes[which].W_dec[chosen]
            directions.append(self.largest[which][chosen] @ atoms)
        return Arm(self._along(directions, edits, encoded, mask))

    def _along(
        self, directions: Sequence[Float[Tensor, " d"]], edits: Sequence[CodeEdit],
        encoded: Encoded, mask: Bool[Tensor, "b p"] | None,
    ) -> Float[Tensor, "k t d"]:  # fmt: skip
        reference, sign = self.selected(edits), pushes(edits)
        matched = [MatchedDirection(sign * one.to(encoded.x), reference) for one in directions]
        return torch.cat([one.steer(encoded, mask) for one in matched])

    def _scores(self, which: str, group: int) -> Float[np.ndarray, "s c"] | None:
        """Of each latent for each class; None where no unit has a label."""
        found, n_columns = self.start.discovery, len(self.setting.readout.concepts)
        if not (found.labels[:, group] >= 0).any():
            return None
        return found.scores(which, SELECTOR, group, n_columns)

    def _column(self, concept: str) -> int | None:
        concepts = self.setting.readout.concepts
        return concepts.index(concept) if concept in concepts else None

    def _no_labels(self, concept: str) -> str:
        n = len(self.start.items)
        return f"none of the {n} start-up images is labelled {concept!r}"


def pushes(edits: Sequence[CodeEdit]) -> float:
    """The way in which edits move the stream along their atoms, −1 or 1: that of most latents, by the
    rule of hypotheses."""
    signs = [
        Hypothesis(edit={k: v for k, v in edit_to_dict(e).items() if k not in ("latents", "unit")})
        .pushes * len(e.latents)
        for e in edits
    ]  # fmt: skip
    return 1.0 if sum(signs) > 0 else -1.0
