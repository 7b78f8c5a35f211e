"""Proposals: hypotheses that name their latents, from the file and the discovery images."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from saev.errors import UserError
from saev.intervention.choose.discovery import Discovery
from saev.intervention.choose.selectors import Scores, effect_scores, select_latents
from saev.intervention.hypothesis import Hypothesis
from saev.intervention.readout import Readout, shuffled
from saev.intervention.setting import Setting
from saev.stats.correction import draws_needed
from saev.stats.tests import rank_p

Latents = tuple[int, ...]
Selections = dict[int, tuple[Latents, float | None]]
"""Column → latents chosen on shuffled labels, and the p of that choice."""


@dataclass(frozen=True)
class Proposal:
    """One hypothesis, before any test image was read."""

    concept: str
    column: int
    latents: dict[int, Latents]
    """Number of latents edited together → which; the tested number and those of the table."""
    tried: tuple[Latents, ...]
    """Sets of the tested size of which the best counts; one unless ``best_of`` says more."""
    score: float
    """Of the first latent, by the selector."""
    p_selection: float | None = None
    """Rank of the best latent's fit to the labels among the best fits to shuffled ones: whether
    there was anything to find. None where latents were not chosen by their fit."""
    untrained: tuple[dict[int, Latents], ...] = ()
    """The same selection in each untrained dictionary."""
    shuffled: tuple[dict[int, Latents], ...] = ()
    """The same selection on shuffled labels."""

    def to_dict(self) -> dict[str, Any]:
        """What is registered: concept, latents and their score."""
        return {
            "concept": self.concept,
            "latents": {str(n): list(latents) for n, latents in self.latents.items()},
            "tried": [list(latents) for latents in self.tried],
            "score": self.score,
            "p_selection": self.p_selection,
        }


def tested_columns(setting: Setting, discovery: Discovery) -> list[int]:
    """Columns that the file asks about; for "all", those with enough discovery units.

    Raises:
        UserError: an unknown class, a class without support that is named, or none with support.
    """
    file, readout = setting.file, setting.readout
    n_units = {c: _n_units(discovery, readout, c) for c in range(len(readout.concepts))}
    needed = _needed(file, readout)
    if file.concept != "all":
        names = [file.concept] if isinstance(file.concept, str) else list(file.concept)
        columns = [readout.column(name) for name in names]
        for column in columns:
            if n_units[column] < needed:
                raise UserError(
                    f"{readout.concepts[column]!r} has {n_units[column]} discovery {readout.per}es "
                    f"with that label and {needed} are needed: give more discovery images, or lower "
                    "support.n_discovery_units"
                )
        return columns
    found = [c for c, n in n_units.items() if n >= needed and c not in readout.groups.backgrounds]
    if not found:
        raise UserError(
            f"no class has {needed} discovery units: give more discovery images, or lower "
            "support.n_discovery_units"
        )
    return found


def _needed(file: Hypothesis, readout: Readout) -> int:
    """Images are fewer than patches: three of a class are a start."""
    return file.support.n_discovery_units if readout.per == "patch" else 3


def _n_units(discovery: Discovery, readout: Readout, column: int) -> int:
    return int((discovery.labels[:, readout.groups.of(column)] == column).sum())


class Proposer:
    """Selects latents for every concept, on true and on shuffled labels, by one selector."""

    def __init__(self, setting: Setting, discovery: Discovery) -> None:
        file = setting.file
        self.file, self.discovery, self.readout = file, discovery, setting.readout
        self.untrained = setting.untrained
        self.alive = {w: units.stats.alive for w, units in discovery.units.items()}
        self.rng = np.random.default_rng([file.seed, 1])
        self.by_hand = _by_hand(file)
        sizes = {len(latents) for latents in self.by_hand.values()} or {file.selector.n}
        if len(sizes) > 1:
            raise UserError("latents: every concept needs the same number of them")
        self.n = sizes.pop()
        self.sizes = sorted({self.n, *file.table.n_latents})
        by = file.selector.by
        self.fit = "f1" if by in ("greedy", "logistic") else by
        if by == "effect":
            self.fit = "f1" if setting.readout.per == "patch" else "average_precision"
        self.among = max(file.selector.among, self.n * file.selector.best_of, *self.sizes)
        self.null: dict[int, Float[np.ndarray, " r"]] = {}

    def propose(self, columns: list[int]) -> list[Proposal]:
        """One hypothesis per column; the controls' selections with it."""
        self._draw_null(columns)
        repeats = [self._shuffled_scores() for _ in range(self.file.shuffles)]
        return [self._propose(column, repeats) for column in columns]

    def recalibrate(self, columns: list[int]) -> Selections:
        """A selection on freshly shuffled labels."""
        scores, labels = self._shuffled_scores()
        chosen = {c: self._select("sae", scores, c, self.n, labels) for c in columns}
        fits = self._fits(labels, scores) if self.null else scores
        return {c: (latents, self._p_selection(fits, c, latents)) for c, latents in chosen.items()}

    # --- is there anything to find? ---------------------------------------------------------

    def _draw_null(self, columns: list[int]) -> None:
        """For every column the best fit of any latent to labels shuffled again and again.

        A latent chosen on shuffled labels may still be the concept's by luck; that it is no
        discovery shows in its fit alone. As many shuffles as α needs after correction.
        """
        if self.by_hand or self.file.selector.by == "attribution":
            return
        n = self.file.draws or draws_needed(self.file.alpha, len(columns))
        rng = np.random.default_rng([self.file.seed, 3])
        best_rc = np.empty((n, len(columns)))
        for r in range(n):
            fits = self._fits(self._shuffle(rng))
            best_rc[r] = [self._best(fits, column) for column in columns]
        self.null = dict(zip(columns, best_rc.T, strict=True))

    def _fits(
        self, labels: np.ndarray | None, scores: dict[int, Scores] | None = None
    ) -> dict[int, Scores]:
        """Scores that a fit is judged by: the selector's own, or F1 where those take long.

        ``scores`` are the selector's on these labels, where they are there already.
        """
        if scores is not None and self.fit == self.file.selector.by:
            return scores
        n_columns = len(self.readout.concepts)
        groups = range(len(self.readout.groups.spans))
        return {g: self.discovery.scores("sae", self.fit, g, n_columns, labels) for g in groups}

    def _best(self, fits: dict[int, Scores], column: int) -> float:
        return float(fits[self.readout.groups.of(column)][self.alive["sae"], column].max())

    def _p_selection(self, fits: dict[int, Scores], column: int, latents: Latents) -> float | None:
        if column not in self.null:
            return None
        fit = float(fits[self.readout.groups.of(column)][latents[0], column])
        return float(rank_p(fit, self.null[column]))

    def _propose(
        self, column: int, repeats: list[tuple[dict[int, Scores], np.ndarray]]
    ) -> Proposal:
        concept = self.readout.concepts[column]
        group = self.readout.groups.of(column)
        scores = self._scores("sae")
        if self.by_hand:
            latents = self._hand(concept)
            tried: tuple[Latents, ...] = (latents[self.n],)
        else:
            latents = {n: self._select("sae", scores, column, n, None) for n in self.sizes}
            best_of = self.file.selector.best_of
            tried = (latents[self.n],)
            if best_of > 1:
                ranked = self._select("sae", scores, column, self.n * best_of, None)
                tried = tuple(ranked[k * self.n : (k + 1) * self.n] for k in range(best_of))
        return Proposal(
            concept,
            column,
            latents,
            tried,
            float(scores[group][latents[self.n][0], column]),
            self._p_selection(self._fits(None), column, latents[self.n]) if self.null else None,
            tuple(
                {n: self._select(which, self._scores(which), column, n, None) for n in self.sizes}
                for which in self.untrained
            ),
            tuple(
                {n: self._select("sae", one, column, n, labels) for n in self.sizes}
                for one, labels in repeats
            ),
        )  # fmt: skip

    def _hand(self, concept: str) -> dict[int, Latents]:
        if concept not in self.by_hand:
            raise UserError(f"latents names none for {concept!r}: add it, or leave latents out")
        latents = self.by_hand[concept]
        d_sae = len(self.discovery.units["sae"].stats.rate)
        for latent in latents:
            if not 0 <= latent < d_sae:
                raise UserError(f"there is no latent {latent}: they go from 0 to {d_sae - 1}")
            if latent not in self.alive["sae"]:
                raise UserError(
                    f"latent {latent} is dead: it fires on none of the "
                    f"{len(self.discovery.items)} discovery images, so no multiple of its largest "
                    "code means anything; choose another"
                )
        return {n: latents[:n] for n in self.sizes if n <= len(latents)}

    def _method(self, which: str) -> str:
        """Attribution needs gradients of the trained dictionary; its controls are chosen by F1."""
        method = self.file.selector.by
        return "f1" if method == "attribution" and which != "sae" else method

    def _scores(self, which: str) -> dict[int, Scores]:
        method = self._method(which)
        if method == "effect":
            return self._effect_scores(which, None, self.discovery.effects[which])
        n_columns = len(self.readout.concepts)
        groups = range(len(self.readout.groups.spans))
        return {g: self.discovery.scores(which, method, g, n_columns) for g in groups}

    def _effect_scores(
        self, which: str, labels: Int[np.ndarray, "n g"] | None, effects: Scores
    ) -> dict[int, Scores]:
        found, n_columns = self.discovery, len(self.readout.concepts)
        return {
            g: effect_scores(
                found.scores(which, self.fit, g, n_columns, labels), effects, self.among
            )
            for g in range(len(self.readout.groups.spans))
        }

    def _shuffled_scores(self) -> tuple[dict[int, Scores], Int[np.ndarray, "n g"]]:
        labels = self._shuffle(self.rng)
        n_columns = len(self.readout.concepts)
        groups = range(len(self.readout.groups.spans))
        by = self.file.selector.by
        if by == "attribution":
            return self._other_class_attribution(), labels
        if by == "effect":
            return self._effect_scores("sae", labels, self._other_class_effects()), labels
        return {g: self.discovery.scores("sae", by, g, n_columns, labels) for g in groups}, labels

    def _shuffle(self, rng: np.random.Generator) -> Int[np.ndarray, "n g"]:
        found, readout = self.discovery, self.readout
        return shuffled(found.labels, found.image, readout.groups, readout.per, rng)

    def _other_class_attribution(self) -> dict[int, Scores]:
        """Attributions to another class of the group: the labels do not enter them."""
        scores = {g: one.copy() for g, one in self._scores("sae").items()}
        for g, (first, last) in enumerate(self.readout.groups.spans):
            order = self.rng.permutation(np.arange(first, last))
            scores[g][:, first:last] = scores[g][:, order]
        return scores

    def _other_class_effects(self) -> Scores:
        """Effects on another class of the group: shuffled labels know nothing of them either."""
        effects = self.discovery.effects["sae"].copy()
        for first, last in self.readout.groups.spans:
            order = self.rng.permutation(np.arange(first, last))
            effects[:, first:last] = effects[:, order]
        return effects

    def _select(
        self, which: str, scores: dict[int, Scores], column: int, n: int, labels: np.ndarray | None
    ) -> Latents:
        group = self.readout.groups.of(column)
        alive = self.alive[which]
        if n > len(alive):
            one = "the dictionary" if which == "sae" else "a dictionary that was never trained"
            raise UserError(f"{n} latents are wanted and {len(alive)} of {one} are alive")
        method = self._method(which)
        table = self.discovery.table(which, group, labels)
        return select_latents(method, table, scores[group], column, n, alive)


def _by_hand(file: Hypothesis) -> dict[str, Latents]:
    if file.latents is None:
        return {}
    given = file.latents
    if not isinstance(given, dict):
        if not isinstance(file.concept, str) or file.concept == "all":
            raise UserError(
                "latents as a list is for one concept: write concept: [latents] for several"
            )
        given = {file.concept: given}
    try:
        return {str(name): tuple(int(k) for k in latents) for name, latents in given.items()}
    except (TypeError, ValueError) as error:
        raise UserError(f"latents is {file.latents!r}: it holds numbers of latents") from error
