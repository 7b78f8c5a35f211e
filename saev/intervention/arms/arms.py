"""Arms of each hypothesis: the selected latents and every control.

Suffixes: b images, p chosen tokens, d width.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saev.editing.code_edits import Scale, Where
from saev.editing.directions import MatchedDirection, RawUnit, apart_from
from saev.editing.edits import parse_edit
from saev.editing.tap_edit import TapEdit
from saev.editing.tokens import encode
from saev.intervention.arms.control_directions import COVARIANCE, control_directions
from saev.intervention.arms.matched_latents import (
    AlikePool,
    Matched,
    RandomPool,
    UniformPool,
    log_features,
    rounded_dose,
    too_few_sets,
)
from saev.intervention.arms.runner import EncodedBatch, Job
from saev.intervention.choose.discovery import Discovery
from saev.intervention.choose.proposals import Latents, Proposal, Selections
from saev.intervention.setting import Setting


@dataclass(frozen=True)
class Use:
    """One draw of one arm of one hypothesis, and the job that answers for it."""

    concept: str
    arm: str
    draw: int
    n_latents: int
    scale: float
    key: Hashable
    tested: bool
    """Whether it is of the tested setting, or only of the table, the dose–response curve or the
    trade-off curves."""
    amount: float = 1.0
    """Multiple of the edit, on the trade-off curves."""


class ArmPlan:
    """Collects jobs and who uses them; equal edits become one job.

    Args:
        n_draws: matched random sets per hypothesis.
        repeats: latents chosen on shuffled labels, for calibration.
        also: further latents that will be compared with random ones.
    """

    def __init__(
        self,
        setting: Setting,
        discovery: Discovery,
        proposals: Sequence[Proposal],
        n_draws: int,
        repeats: Sequence[Selections] = (),
        also: Sequence[Latents] = (),
    ) -> None:
        file, saes = setting.file, setting.saes
        self.file, self.readout, self.saes = file, setting.readout, saes
        self.untrained = setting.untrained
        self.tokens, self.discovery = setting.edited_tokens, discovery
        self.proposals, self.repeats = list(proposals), repeats
        self.jobs: dict[Hashable, Job] = {}
        self.uses: list[Use] = []
        self.n_draws = n_draws
        self.n = len(proposals[0].tried[0])
        device = saes["sae"].W_dec.device
        self.largest = {
            which: torch.from_numpy(units.stats.largest).float().to(device)
            for which, units in discovery.units.items()
        }
        columns = [p.column for p in self.proposals]
        self.directions = control_directions(file, discovery, setting.readout, columns)
        rng = np.random.default_rng([file.seed, 2])
        selected = [latents for p in self.proposals for latents in p.tried]
        also = [*also, *(latents for repeat in repeats for latents, _ in repeat.values())]
        stats = discovery.units["sae"].stats
        edit = parse_edit(file.edit, selected[0])
        self.has_dose = edit.has_unit
        """Whether the edit has an amount of its own, so that random latents can be given it."""
        pool = UniformPool if self.has_dose else AlikePool
        self.pool = pool(stats, [*selected, *also], n_draws, rng)
        self.table_pools = {
            n: pool(
                stats, [p.latents[n] for p in self.proposals if n in p.latents], file.table.draws, rng
            )
            for n in file.table.n_latents if n != self.n
        }  # fmt: skip
        self.sample = encode(saes["sae"], self.tokens, discovery.sample.to(device))
        self._sizes: dict[Hashable, np.ndarray] = {}
        self.matched: dict[str, Matched] = {}

    def build(self) -> None:
        """Plans every arm of every hypothesis with the table and the doses, then the calibration.

        Raises:
            UserError: the dictionary cannot give as many matched sets.
        """
        fewest = min(len(self.pool.draws(p.tried[0], self.n_draws)) for p in self.proposals)
        if fewest < self.n_draws:
            raise too_few_sets(self.n_draws, len(self.pool.alive))
        for proposal in self.proposals:
            self._tested(proposal)
            for n in self.file.table.n_latents or (self.n,):
                for scale in self.file.table.scales:
                    if n in proposal.latents and (n, scale) != (self.n, self.file.scale):
                        self._described(proposal, n, scale)
            for dose in self.file.doses:
                self._dose(proposal, dose)
            for amount in self.file.tradeoff.doses:
                self._tradeoff(proposal, amount)
        for repeat in self.repeats:
            for proposal in self.proposals:
                latents = repeat[proposal.column][0]
                self.latents_key(latents, self.file.scale, self.owner(proposal))
                self.random_keys(latents, self.owner(proposal))

    # --- random latents -----------------------------------------------------------------------

    def dose(self, latents: Latents) -> float | None:
        """What random latents take in place of their own largest codes; None: nothing."""
        if not self.has_dose:
            return None
        return rounded_dose(self.largest["sae"][list(latents)].cpu().numpy())

    def random_keys(
        self, latents: Latents, owner: str | None, scale: float | None = None,
        pool: RandomPool | None = None, n_draws: int | None = None,
    ) -> list[Hashable]:  # fmt: skip
        """The jobs of the random latents that some latents are compared with."""
        pool = self.pool if pool is None else pool
        scale = self.file.scale if scale is None else scale
        draws = pool.draws(latents, self.n_draws if n_draws is None else n_draws)
        dose = self.dose(latents)
        return [self.latents_key(pool.sets[r], scale, owner, dose=dose) for r in draws]

    def random_steering(self, concept: str) -> TapEdit:
        """The edit of the first random latents of a concept, to be looked at."""
        p = next(p for p in self.proposals if p.concept == concept)
        drawn = self.pool.sets[self.matched[concept].draws[0]]
        return self.steering(drawn, self.file.scale, dose=self.dose(p.tried[0]))

    def match(self, latents: Latents) -> Matched:
        """The random latents that some latents are compared with, and how large their edits are."""
        draws, dose = self.pool.draws(latents, self.n_draws), self.dose(latents)
        return Matched(
            draws,
            self.sizes(latents, None),
            np.stack([self.sizes(self.pool.sets[r], dose) for r in draws]),
            self.has_dose,
        )

    @torch.no_grad()
    def sizes(self, latents: Latents, dose: float | None) -> Float[np.ndarray, " f"]:
        """Logarithms of ``SIZES`` of the tested edit: on a few discovery images where it has a dose,
        else of the codes themselves on all of them."""
        key = (latents, dose)
        if key not in self._sizes:
            if self.has_dose:
                steering = self.steering(latents, self.file.scale, mode="add", dose=dose)
                delta, changed = steering.delta(self.sample)
                length = float(delta[changed].norm(dim=-1).mean()) if changed.any() else 0.0
                own = float(self.largest["sae"][list(latents)].square().mean().sqrt())
                found = (float(changed.float().mean()), length, own if dose is None else dose)
                self._sizes[key] = np.log(np.maximum(found, 1e-9))
            else:
                stats = self.discovery.units["sae"].stats
                self._sizes[key] = log_features(stats, np.array(latents)).mean(0)
        return self._sizes[key]

    # --- keys: one per different edit -------------------------------------------------------

    def steering(
        self, latents: Latents, scale: float, which: str = "sae", where: Where | None = None,
        mode: str | None = None, amount: float = 1.0, dose: float | None = None,
    ) -> TapEdit:  # fmt: skip
        """The file's edit on these latents; at another scale, place and mode where asked, its change
        of codes times ``amount``, with ``dose`` in place of each latent's largest code."""
        edit = parse_edit(self.file.at(scale), latents)
        if where is not None:
            edit = replace(edit, where=where)
        mode = self.file.mode if mode is None else mode
        largest = self.largest[which]
        if dose is not None:
            largest = torch.full_like(largest, dose)
        return TapEdit(self.saes[which], [edit], largest, self.tokens, mode, amount)

    def _unchanged(self, p: Proposal, mode: str) -> TapEdit:
        """Every code as it is: nothing is added, or the reconstruction takes the stream's place."""
        same = Scale(p.tried[0], factor=1.0)
        return TapEdit(self.saes["sae"], [same], self.largest["sae"], self.tokens, mode)

    def owner(self, p: Proposal) -> str | None:
        """Whose images an edit runs on: heads that answer per patch see all images every time, so
        that equal edits of different hypotheses are one job."""
        return p.concept if self.readout.per == "image" else None

    def latents_key(
        self, latents: Latents, scale: float, owner: str | None, which: str = "sae",
        amount: float = 1.0, dose: float | None = None,
    ) -> Hashable:  # fmt: skip
        """The job of editing some latents."""
        key = (which, tuple(sorted(latents)), scale, amount, dose)
        if key not in self.jobs:
            steering = self.steering(latents, scale, which, amount=amount, dose=dose)
            self.jobs[key] = Job(lambda batch: steering.steer(batch.encoded[which]), _only(owner))
        elif (owners := self.jobs[key].owners) is not None:
            wider = None if owner is None else owners | {owner}
            self.jobs[key] = replace(self.jobs[key], owners=wider)
        return key

    def repeat_key(self, p: Proposal, repeat: Selections) -> Hashable:
        """The job of a hypothesis with latents chosen on shuffled labels."""
        return self.latents_key(repeat[p.column][0], self.file.scale, self.owner(p))

    def direction_key(
        self, name: Hashable, towards: Tensor, latents: Latents, scale: float, owner: str,
        amount: float = 1.0,
    ) -> Hashable:  # fmt: skip
        """The job of a direction that takes the length of the edit of some latents, at every token;
        away from where it points, if the edit lowers its latents."""
        key = ("direction", name, latents, scale, owner, amount)
        if key not in self.jobs:
            device = self.saes["sae"].W_dec.device
            # directions take the length of the selected edit as a difference
            reference = self.steering(latents, scale, mode="add", amount=amount)
            matched = MatchedDirection(self.file.pushes_at(scale) * towards.to(device), reference)
            self.jobs[key] = Job(lambda batch: matched.steer(batch.encoded["sae"]), _only(owner))
        return key

    def towards(self, latents: Latents, which: str = "sae") -> Tensor:
        """The direction in which latents are raised together, each in units of its largest code."""
        index = list(latents)
        return self.largest[which][index] @ self.saes[which].W_dec[index]

    def others(
        self, random: Mapping[str, Float[Tensor, "r d"]], latents: Latents
    ) -> dict[str, Float[Tensor, "r d"]]:
        """Random directions by arm, those of the data's covariance without the edit's own: where the
        edit goes the way that the data varies most, they would be the same edit in part."""
        own = self.towards(latents).cpu()
        return {**random, COVARIANCE: apart_from(random[COVARIANCE], own)}

    # --- arms -------------------------------------------------------------------------------

    def use(
        self, p: Proposal, arm: str, draw: int, n: int, scale: float, key: Hashable, tested: bool,
        amount: float = 1.0,
    ) -> None:  # fmt: skip
        self.uses.append(Use(p.concept, arm, draw, n, scale, key, tested, amount))

    def _tested(self, p: Proposal) -> None:
        file, n, scale = self.file, self.n, self.file.scale
        for number, latents in enumerate(p.tried):
            key = self.latents_key(latents, scale, self.owner(p))
            self.use(p, "selected", number, n, scale, key, True)
        self.matched[p.concept] = self.match(p.tried[0])
        for draw, key in enumerate(self.random_keys(p.tried[0], self.owner(p))):
            self.use(p, "random_latents", draw, n, scale, key, True)
        self._same_length(p, n, scale, 1.0, file.n_directions, file.untrained, True)
        self._controls(p, n, scale, file.n_directions, file.shuffles, True)
        self._identity(p)
        for name in file.baselines:
            self._baseline(p, name)
        if file.mode == "replace":
            key = self._reconstruction_key(p)
            self.use(p, "reconstruction", 0, 0, 0.0, key, True)

    def _described(self, p: Proposal, n: int, scale: float) -> None:
        self.use(
            p, "selected", 0, n, scale, self.latents_key(p.latents[n], scale, self.owner(p)), False
        )
        pool = self.pool if n == self.n else self.table_pools[n]
        keys = self.random_keys(p.latents[n], self.owner(p), scale, pool, self.file.table.draws)
        for draw, key in enumerate(keys):
            self.use(p, "random_latents", draw, n, scale, key, False)
        self._controls(p, n, scale, self.file.table.draws, self.file.table.draws, False)

    def _dose(self, p: Proposal, dose: float) -> None:
        if not any(u.concept == p.concept and u.arm == "selected" and u.n_latents == self.n
                   and u.scale == dose for u in self.uses):  # fmt: skip
            key = self.latents_key(p.latents[self.n], dose, self.owner(p))
            self.use(p, "selected", 0, self.n, dose, key, False)

    def _tradeoff(self, p: Proposal, amount: float) -> None:
        """One dose of the arms that are compared by what else they change."""
        if amount == 1:
            return  # the tested edit
        n, scale, draws = self.n, self.file.scale, self.file.tradeoff.draws
        key = self.latents_key(p.latents[n], scale, self.owner(p), amount=amount)
        self.use(p, "selected", 0, n, scale, key, False, amount)
        self._same_length(p, n, scale, amount, draws, draws, False)

    def _same_length(
        self, p: Proposal, n: int, scale: float, amount: float, n_random: int, n_untrained: int,
        tested: bool,
    ) -> None:  # fmt: skip
        """Other latents' directions and what labels give, as long at every token as the edit."""
        latents = p.latents[n]
        found: list[tuple[str, int, Tensor]] = [
            ("diffmean", 0, self.directions.diffmean[p.column]),
            ("linear_probe", 0, self.directions.probe[p.column]),
        ]
        for draw, r in enumerate(self.matched[p.concept].draws[:n_random]):
            towards = self.towards(self.pool.sets[r])
            found.append(("random_latents_same_length", draw, towards))
        for draw, (which, chosen) in enumerate(zip(self.untrained, p.untrained, strict=True)):
            if draw < n_untrained:
                found.append(("untrained_same_length", draw, self.towards(chosen[n], which)))
        for arm, draw, towards in found:
            name = (arm, draw)
            key = self.direction_key(name, towards, latents, scale, p.concept, amount)
            self.use(p, arm, draw, n, scale, key, tested, amount)

    def _controls(
        self, p: Proposal, n: int, scale: float, n_directions: int, n_shuffles: int, tested: bool
    ) -> None:
        latents = p.latents[n]
        for arm, directions in self.others(self.directions.random, latents).items():
            for draw, direction in enumerate(directions[:n_directions]):
                key = self.direction_key((arm, draw), direction, latents, scale, p.concept)
                self.use(p, arm, draw, n, scale, key, tested)
        for draw, chosen in enumerate(p.shuffled[:n_shuffles]):
            key = self.latents_key(chosen[n], scale, self.owner(p))
            self.use(p, "shuffled_selection", draw, n, scale, key, tested)
        self.use(p, "wrong_tokens", 0, n, scale, self._wrong_key(p, n, scale), tested)
        if not tested:
            towards = self.directions.diffmean[p.column]
            key = self.direction_key(("diffmean", 0), towards, latents, scale, p.concept)
            self.use(p, "diffmean", 0, n, scale, key, tested)
        first = self.untrained[0]
        key = self.latents_key(p.untrained[0][n], scale, self.owner(p), first)
        self.use(p, "untrained_sae", 0, n, scale, key, tested)

    def _identity(self, p: Proposal) -> None:
        key = ("identity", p.concept)
        steering = self._unchanged(p, "add")
        self.jobs[key] = Job(
            lambda batch: steering.steer(batch.encoded["sae"]), _only(p.concept), alone=True
        )
        self.use(p, "identity", 0, self.n, self.file.scale, key, True)

    def _wrong_key(self, p: Proposal, n: int, scale: float) -> Hashable:
        """The same edit off the concept: outside its patches, or, for heads that answer per image,
        where none of the latents fires."""
        key = ("wrong", p.column, p.latents[n], scale)
        if key not in self.jobs:
            steering = self.steering(p.latents[n], scale, where=Where("off_mask"))
            column, group = p.column, self.readout.groups.of(p.column)
            latents, per = list(p.latents[n]), self.readout.per

            def steer(batch: EncodedBatch) -> Tensor:
                encoded = batch.encoded["sae"]
                mask: Bool[Tensor, "b p"] = (
                    batch.labels[..., group] == column
                    if per == "patch"
                    else (encoded.z[..., latents] > 0).any(-1)
                )
                return steering.steer(encoded, mask)

            self.jobs[key] = Job(steer, _only(p.concept))
        return key

    def _reconstruction_key(self, p: Proposal) -> Hashable:
        key = ("reconstruction", p.concept)
        steering = self._unchanged(p, "replace")
        self.jobs[key] = Job(lambda batch: steering.steer(batch.encoded["sae"]), _only(p.concept))
        return key

    def _baseline(self, p: Proposal, name: str) -> None:
        scale, latents = self.file.scale, p.tried[0]
        if name == "pca_direction":
            towards = self.directions.pca[p.column]
            key = self.direction_key(name, towards, latents, scale, p.concept)
        elif name == "raw_unit":
            key = self._raw_unit_key(p, self.directions.diffmean[p.column])
        else:
            return  # pixels are masked before the tap: saev.intervention.arms.gradcam adds that job
        self.use(p, name, 0, self.n, scale, key, True)

    def _raw_unit_key(self, p: Proposal, towards: Tensor) -> Hashable:
        """The coordinate that differs most, in standard deviations, set to its mean elsewhere plus
        ``scale`` × that difference."""
        spread = self.discovery.covariance.diagonal().clamp(min=1e-12).sqrt()
        unit = int((towards / spread).abs().argmax())
        value = float(self.discovery.rest_mean[p.column][unit] + self.file.scale * towards[unit])
        key = ("raw_unit", p.column, self.file.scale)
        edit = RawUnit(unit, value, self.tokens)
        self.jobs[key] = Job(lambda batch: edit.steer(batch.encoded["sae"]), _only(p.concept))
        return key


def _only(owner: str | None) -> frozenset[str] | None:
    return None if owner is None else frozenset([owner])
