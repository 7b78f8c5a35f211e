"""Latent search: by words, concept, text, example patches, or similarity.

Suffixes: s latents, k exemplars, n images, e embedding.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saev.errors import UserError
from saev.exploration.answers import RankedLatent
from saev.exploration.edit_arms import SELECTOR
from saev.exploration.latent_rows import LatentRows
from saev.exploration.model_answers import ModelAnswers

MOST_WORDS = 500
"""Characters of a query."""
FEWEST_IMAGES = 3
"""On which a latent fires, for a text to be compared with them."""


class LatentSearch:
    """Searches one dictionary's latents."""

    def __init__(self, rows: LatentRows, answers: ModelAnswers) -> None:
        self.rows, self.answers, self.start = rows, answers, rows.start

    def by_text(self, text: str, n: int) -> list[RankedLatent]:
        """By names and concepts of the atlas, then by the text tower; what there is of the two.

        Raises:
            UserError: no text, or neither an atlas nor a text tower.
        """
        text = text.strip()[:MOST_WORDS]
        if not text:
            raise UserError("nothing is asked: type one or more words")
        has_text = self.answers.setting.backbone.has_text
        if self.rows.atlas is None and not has_text:
            raise UserError(
                "there are no names to search and the model has no text tower: start the explorer with "
                "atlas=DIR, or search by a concept"
            )
        found = [] if self.rows.atlas is None else self.rows.by_words(text, n)
        if has_text and len(found) < n:
            named = {row.latent for row in found}
            found += [row for row in self._by_tower(text, n) if row.latent not in named]
        return found[:n]

    @torch.no_grad()
    def _by_tower(self, text: str, n: int) -> list[RankedLatent]:
        """How well a text fits the images on which a latent is strongest, in standard deviations of
        its fit to all start-up images."""
        with self.answers.lock:
            direction: Tensor = self.answers.text_tower().class_weights([text], ["{}"])
        image_ne = torch.from_numpy(self.start.codes.embedding)
        fit_n = torch.nn.functional.normalize(image_ne, dim=-1) @ direction[:, 0].float().cpu()
        fit_n = (fit_n - fit_n.mean()) / fit_n.std().clamp(min=1e-9)
        value_ks = self.start.exemplars.value_ns.cpu()
        fit_ks = fit_n[self.start.exemplars.image_ns.cpu().clamp(min=0)]
        score_s = (value_ks * fit_ks).sum(0) / value_ks.sum(0).clamp(min=1e-9)
        score_s[(value_ks > 0).sum(0) < FEWEST_IMAGES] = -torch.inf
        best = [int(k) for k in score_s.argsort(descending=True)[:n] if torch.isfinite(score_s[k])]
        scores = score_s[best].tolist()
        why = [f"its strongest images fit the text by {score:.1f} deviations" for score in scores]
        return self.rows.at(best, scores, why)

    def by_concept(self, concept: str, n: int) -> list[RankedLatent]:
        """The latents that predict a concept best: by the atlas where it knows it, else by F1 on the
        start-up images.

        Raises:
            UserError: nobody knows it.
        """
        rows, setting = self.rows, self.answers.setting
        concepts = setting.readout.concepts
        if rows.atlas is not None:
            try:
                return rows.by_atlas_concept(concept, n)
            except UserError:
                if concept not in concepts:
                    raise
        column = setting.readout.column(concept)
        group = setting.readout.groups.of(column)
        discovery = self.start.discovery
        if not (discovery.labels[:, group] == column).any():
            raise UserError(f"none of the start-up images is labelled {concept!r}")
        with self.answers.lock:
            scores = discovery.scores("sae", SELECTOR, group, len(concepts))[:, column]
        return self._best(scores, n, "{:.2f} F1 on the start-up images")

    def like(self, latent: int, n: int) -> list[RankedLatent]:
        """By the cosine of atoms."""
        atoms = torch.nn.functional.normalize(self.answers.setting.sae.W_dec.float(), dim=-1)
        cosine = (atoms @ atoms[latent]).cpu().numpy()
        cosine[latent] = -np.inf
        return self._best(cosine, n, "cosine {:.2f} of its atom")

    def _best(self, scores: Float[np.ndarray, " s"], n: int, why: str) -> list[RankedLatent]:
        best = [int(k) for k in (-scores).argsort(kind="stable")[:n] if np.isfinite(scores[k])]
        return self.rows.at(
            best, [float(scores[k]) for k in best], [why.format(scores[k]) for k in best]
        )
