"""Causal effect across layers: steer latents of an earlier layer, read latents of a later one.

Suffixes: b images, t tokens, d width, k steered latents, c latents of the later dictionary.
"""

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saev.codes.images import ImageList
from saev.comparison.members import CompareSettings, Member
from saev.editing.steering_effects import random_shifts, shifts_of
from saev.editing.tokens import on_chosen_tokens

if TYPE_CHECKING:
    import pandas as pd

N_STRONGEST = 3
COLUMNS = [
    "sae_a", "latent_a", "sae_b", "latent_b", "matched", "drive", "drive_random", "drive_others",
    "rank", "rank_others", "coactivation",
]  # fmt: skip


def drive_table(
    members: list[Member],
    matches: "pd.DataFrame",
    images: ImageList,
    settings: CompareSettings,
    device: str | torch.device = "cpu",
) -> "pd.DataFrame":
    """For every two dictionaries of one model at different layers: the matched latents of the
    earlier one steered, the codes of the later one read.

    Empty where there are none. Columns: docs/formats.md.
    """
    import pandas as pd

    frames = []
    ordered = sorted(members, key=lambda member: member.layer)
    for early, late in combinations(ordered, 2):
        if early.layer == late.layer or not early.same_model(late):
            continue
        pairs = matches[(matches["sae_a"] == early.name) & (matches["sae_b"] == late.name)]
        pairs = pairs.sort_values("correlation", ascending=False, kind="stable")
        pairs = pairs.head(settings.n_drives)
        if len(pairs):
            frames.append(_drives(early, late, pairs, images, settings, device))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=COLUMNS)


def _drives(
    early: Member, late: Member, pairs: "pd.DataFrame", images: ImageList,
    settings: CompareSettings, device: str | torch.device,
) -> "pd.DataFrame":  # fmt: skip
    import pandas as pd

    pixels = _pixels(early, images, settings).to(device)
    latents = torch.from_numpy(pairs["latent_a"].to_numpy().copy())
    largest, positions = torch.from_numpy(_largest(early))[latents], early.tokens
    x = early.backbone.tap(pixels, [early.layer])[early.layer][:, positions.to(device)]
    shifts = shifts_of(early.sae, latents, settings.drive_strength, largest, x)
    clean = read_late(early, late, pixels, torch.zeros_like(shifts[:1]))[0]
    moved = (read_late(early, late, pixels, shifts) - clean).numpy()
    random = random_shifts(shifts, len(shifts), settings.seed)
    null = (read_late(early, late, pixels, random) - clean).numpy()
    together = _Coactivation(early, late)
    rank = (-moved).argsort(1, kind="stable").argsort(1, kind="stable")
    rows = []
    for row, (a, partner) in enumerate(zip(pairs["latent_a"], pairs["latent_b"], strict=True)):
        strongest = (-moved[row]).argsort(kind="stable")[:N_STRONGEST]
        others = np.delete(np.arange(len(moved)), row)
        for which in dict.fromkeys([int(partner), *strongest.tolist()]):
            rows.append(
                {
                    "sae_a": early.name, "latent_a": int(a), "sae_b": late.name, "latent_b": which,
                    "matched": which == int(partner), "drive": moved[row, which],
                    "drive_random": null[:, which].max(),
                    "drive_others": moved[others, which].max() if len(others) else np.nan,
                    "rank": int(rank[row, which]),
                    "rank_others": float(np.median(rank[others, which])) if len(others) else np.nan,
                    "coactivation": together.of(int(a), which),
                }
            )  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def _pixels(member: Member, images: ImageList, settings: CompareSettings) -> Tensor:
    """Random images as the model takes them; broken ones are passed over."""
    order = np.random.default_rng(settings.seed).permutation(len(images.entries))
    found: list[Tensor] = []
    for index in order:
        name, item = images.entries[int(index)]
        loaded = images.sources[name].load_or_skip(item)
        if loaded is not None:
            found.append(member.backbone.transform(loaded))
        if len(found) == settings.drive_images:
            break
    return torch.stack(found)


def _largest(member: Member) -> Float[np.ndarray, " s"]:
    codes = member.store.image_codes()
    largest = np.zeros(member.store.n_latents, np.float32)
    np.maximum.at(largest, codes.latent, codes.max)
    return largest


@torch.no_grad()
def read_late(
    early: Member,
    late: Member,
    pixels_b3hw: Float[Tensor, "b 3 h w"],
    shifts_kd: Float[Tensor, "k d"],
) -> Float[Tensor, "k c"]:
    """Mean code of every later latent over its tokens, with each shift added at the tokens of the
    earlier dictionary; neither steers nor reads tokens that a dictionary does not answer for."""
    backbone, device = early.backbone, pixels_b3hw.device
    steered, read = early.tokens.to(device), late.tokens.to(device)
    rows = []
    for shift in shifts_kd.to(device):
        seen: list[Tensor] = []
        steer = on_chosen_tokens(
            early.sae, steered, lambda x_nd, shift=shift: x_nd + shift.to(x_nd)
        )

        def look(acts_btd: Tensor, seen: list[Tensor] = seen) -> Tensor:
            seen.append(acts_btd[:, read].float())
            return acts_btd

        backbone(pixels_b3hw, {early.layer: steer, late.layer: look})
        normal = late.sae.is_normal(seen[0])[..., None]
        z = late.sae.encode(seen[0]) * normal
        rows.append((z.sum((0, 1)) / normal.sum().clamp(min=1)).cpu())
    return torch.stack(rows)


class _Coactivation:
    """Correlation of two latents' largest codes over images."""

    def __init__(self, early: Member, late: Member) -> None:
        self.early, self.late = early, late

    def of(self, a: int, c: int) -> float:
        columns = []
        for member, latent in ((self.early, a), (self.late, c)):
            codes = member.store.image_codes(latent, latent + 1)
            column = np.zeros(len(member.store.image_ids))
            column[codes.image] = codes.max
            columns.append(column)
        if min(column.std() for column in columns) == 0:
            return float("nan")
        return float(np.corrcoef(*columns)[0, 1])


def drive_metrics(drives: "pd.DataFrame") -> dict[str, float]:
    """Rank of the match among the latents that steering moves, against other latents steered instead."""
    metrics: dict[str, float] = {}
    for (one, two), rows in drives[drives["matched"].astype(bool)].groupby(["sae_a", "sae_b"]):  # type: ignore[misc]
        found = {
            "drive_match_first": (rows["rank"] == 0).mean(),
            "drive_match_top10": (rows["rank"] < 10).mean(),
            "drive_match_rank_median": rows["rank"].median(),
            "drive_other_rank_median": rows["rank_others"].median(),
            "drive_above_random": (rows["drive"] > rows["drive_random"]).mean(),
        }
        metrics |= {f"compare/{one}-{two}/{name}": float(value) for name, value in found.items()}
    return metrics
