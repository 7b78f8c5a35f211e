"""Checked edits: from what a page sends to edits that fit the dictionary and the picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool

from saev.editing.code_edits import CodeEdit
from saev.editing.edits import edit_from_dict, parse_where
from saev.editing.tokens import Tokens
from saev.errors import UserError
from saev.exploration.start_up import StartUp
from saev.exploration.view_state import EDIT, MOST_EDITS, MOST_PATCHES
from saev.files import a_list, check_fields, shown


@dataclass(frozen=True)
class Limits:
    """What numbers of patches and latents there are."""

    grid: tuple[int, int]
    d_sae: int
    reads_patches: bool
    tokens: Tokens
    start: StartUp

    def latent(self, latent: Any) -> int:
        """The same, checked; raises UserError for a latent that the dictionary does not have."""
        fits = isinstance(latent, int | np.integer) and not isinstance(latent, bool)
        if not fits or not 0 <= latent < self.d_sae:
            raise UserError(
                f"there is no latent {shown(latent)}: they go from 0 to {self.d_sae - 1}"
            )
        return int(latent)

    def patches(self, patches: Sequence[int]) -> list[int]:
        """The same, checked; raises UserError for one that is not on the grid, or a dictionary that
        reads no patches."""
        n = self.grid[0] * self.grid[1]
        if len(patches) > MOST_PATCHES:
            raise UserError(f"{len(patches):,} patches are marked and the picture has {n}")
        for patch in patches:
            fits = isinstance(patch, int | np.integer) and not isinstance(patch, bool)
            if not fits or not 0 <= patch < n:
                raise UserError(f"there is no patch {shown(patch)}: they go from 0 to {n - 1}")
        if not self.reads_patches:
            raise UserError("the dictionary reads no patches; look at the whole image")
        return [int(patch) for patch in patches]

    def chosen(self, patches: Sequence[int] | None) -> Bool[np.ndarray, " p"]:
        """Which of the dictionary's tokens are the patches; all of them for None or none."""
        if patches is None or not len(patches):
            return np.ones(len(self.tokens.positions), bool)
        return np.isin(self.tokens.patches.cpu().numpy(), self.patches(patches))

    def edits(
        self, edits: Sequence[Mapping[str, Any]], patches: Sequence[int] | None
    ) -> list[CodeEdit]:
        """Edits from JSON; those at "all" tokens are confined to ``patches`` where there are some.

        Raises:
            UserError: none or too many, an unknown latent or patch, or a latent that never fired and
                whose amount is a multiple of its largest code.
        """
        check_fields(list(edits), a_list(EDIT, 1, MOST_EDITS), "the edits", "correct them")
        marked = self.patches(patches) if patches is not None and len(patches) else []
        return [self._edit(edit_from_dict(edit), marked) for edit in edits]

    def _edit(self, edit: CodeEdit, marked: list[int]) -> CodeEdit:
        for latent in edit.latents:
            if self.start.stats.largest[self.latent(latent)] == 0 and edit.needs_largest:
                raise UserError(
                    f"latent {latent} fires on none of the {len(self.start.items)} start-up images, so "
                    "no multiple of its largest code means anything: ablate it, or choose another"
                )
        if edit.where.latent is not None:
            self.latent(edit.where.latent)
        if edit.where.patches:
            self.patches(edit.where.patches)
        if edit.where.kind in ("mask", "off_mask") and not marked:
            raise UserError(f"where={edit.where.kind} needs marked patches: mark one or more")
        if edit.where.kind == "all" and marked:
            return replace(edit, where=parse_where({"patches": marked}))
        return edit
