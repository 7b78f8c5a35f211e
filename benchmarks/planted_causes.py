"""Does the controlled experiment tell features that act from features that do not?

A linear head is trained on the planted model's final patches to say which of the even features is
there. Odd features come along with an even one on half of its patches and no class is trained on
them, so latents that found them are correlated with a class and do not act on it. How much removing
a feature changes each class is measured with the features themselves.

Suffixes: `b` images, `p` patches, `d` width, `m` features, `c` classes, `k` latents.
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.planted import RECOVERED, Score, World
from benchmarks.planted_readers import Prepared, Readers, change, prepare
from saev import run_experiment
from saev.concepts.known_features import encode_tokens
from saev.editing import edits
from saev.editing.tap_edit import TapEdit
from saev.editing.tokens import Tokens, encode
from saev.intervention.judge.verdict import SUPPORTED, Verdict
from saev.sae import SparseAutoencoder

ACTS = 0.25
"""Share of a class's patches that must change for an edit to act on the class; also the smallest
effect of interest in ``conf/hypotheses``."""
LEAST_UNITS = 25
"""Patches of a class, among those that choose and among those that test."""
LEAST_NAMED = 5
"""Patches that the model gives a class before an edit is named after it."""
N_PLACEBO = 24
N_UNTRAINED = 1
"""Dictionaries for the rung "learned"; the other rung, which is scored, does not need any."""


def true_effects(readers: Readers, prepared: Prepared) -> Float[np.ndarray, "m c"]:
    """What each class loses when a feature is not planted: the known effect."""
    found = []
    for m in range(len(readers.features.rates)):
        only = np.zeros_like(prepared.strengths)
        only[..., m] = prepared.strengths[..., m]
        acts = prepared.acts.clone()
        acts[:, readers.backbone.n_prefix :] -= readers.features.added(only)
        found.append(change(readers, prepared, acts))
    return np.stack(found)


def latent_effects(
    sae: SparseAutoencoder,
    latents: Sequence[int],
    largest: Float[Tensor, " s"],
    readers: Readers,
    prepared: Prepared,
) -> Float[np.ndarray, "k c"]:
    """What each class loses when a latent is set to minus its largest code in every patch."""
    tokens = Tokens.of(readers.backbone, "patch")
    encoded = encode(sae, tokens, prepared.acts)
    return np.stack(
        [
            change(
                readers,
                prepared,
                TapEdit(sae, [edits.set(k, scale=-1.0)], largest, tokens).steer(encoded),
            )
            for k in latents
        ]
    )


def experiment(
    sae: SparseAutoencoder, readers: Readers, head_dir: Path, latents: dict[str, list[int]] | None,
    concepts: Sequence[str],
) -> dict[str, Verdict]:  # fmt: skip
    """Verdict of each concept, with latents given or chosen by the experiment."""
    result = run_experiment(
        {
            "concept": list(concepts),
            "latents": latents,
            "images": {
                "discovery": [item.image_id for item in readers.discovery],
                "test": [item.image_id for item in readers.test],
            },
            "shuffles": 1,
            "untrained": N_UNTRAINED,
            "support": {"n_discovery_units": LEAST_UNITS, "n_test_units": LEAST_UNITS},
        },
        sae, head_dir, readers.source, backbone=readers.backbone, num_workers=0, progress=False,
    )  # fmt: skip
    return {row.concept: row for row in result.verdicts}


def causes(
    sae: SparseAutoencoder,
    found: Score,
    world: World,
    readers: Readers,
    *,
    with_experiment: bool = True,
) -> dict[str, Any]:
    """Naming by effect, and the experiment's verdicts on hypotheses that are true and false."""
    prepared = prepare(readers, readers.test)
    truth = true_effects(readers, prepared)
    codes = encode_tokens(sae, world.train.first(60_000).planted(readers.features))
    largest = torch.from_numpy(codes.max(0).toarray().ravel())
    carrying = np.flatnonzero(found.carriers.carries.any(1))
    mine = {int(k) for k in (*found.predictors.latent, *carrying)} & alive_of(largest)
    others = sorted(alive_of(largest) - mine)
    rng = np.random.default_rng(0)
    placebo = rng.choice(others, min(N_PLACEBO, len(others)), replace=False).tolist()
    candidates = [*sorted(mine), *placebo]
    effects = latent_effects(sae, candidates, largest, readers, prepared)
    named = naming(readers, found, candidates, truth, effects, units_of(prepared, readers))
    if not with_experiment:
        return named
    return named | verdicts(sae, found, readers, truth, placebo)


def alive_of(largest: Float[Tensor, " s"]) -> set[int]:
    return set(np.flatnonzero(largest.numpy() > 0).tolist())


def units_of(prepared: Prepared, readers: Readers) -> Int[np.ndarray, " c"]:
    """Test patches that the untouched model gives each class."""
    return np.bincount(prepared.base.flatten().numpy(), minlength=len(readers.read) + 1)


def naming(
    readers: Readers,
    found: Score,
    candidates: list[int],
    truth: Float[np.ndarray, "m c"],
    effects: Float[np.ndarray, "k c"],
    units: Int[np.ndarray, " c"],
) -> dict[str, Any]:
    """Whether the latent that acts most on a class is the one that predicts its feature best, or at
    least one that carries it."""
    best, carry = [], []
    seen = [c for c in range(1, len(units)) if units[c] >= LEAST_NAMED]
    for c in seen:
        m = readers.read[c - 1]
        most = candidates[int(effects[:, c].argmax())]
        acts = effects[:, c].max() >= ACTS
        recovered = acts and found.predictors.f1[m] >= RECOVERED
        best.append(bool(recovered and most == found.predictors.latent[m]))
        carry.append(bool(acts and (best[-1] or found.carriers.carries[most, m])))
    unread = [m for m in range(len(truth)) if m not in readers.read]
    return {
        "n_named": len(seen),
        "named_the_best": sum(best),
        "named_a_carrier": sum(carry),
        "least_effect_read": float(min(truth[readers.read[c - 1], c] for c in seen)),
        "most_effect_unread": float(truth[unread][:, seen].max()),
    }


def verdicts(
    sae: SparseAutoencoder,
    found: Score,
    readers: Readers,
    truth: Float[np.ndarray, "m c"],
    placebo: list[int],
) -> dict[str, Any]:
    """Supported hypotheses among true and false ones.

    True: a class with a feature that acts on it, with the latent that the experiment chooses, which
    must be the one that recovered the feature or carry it. False: the same classes with the latent of
    the companion or, every second one, a random latent; and a chosen latent that is not the feature's.
    """
    units = unit_counts(readers)
    tested = [
        (c, m) for c, m in enumerate(readers.read, 1)
        if truth[m, c] >= ACTS and min(units[0][c], units[1][c]) >= LEAST_UNITS
    ]  # fmt: skip
    concepts = {f"feature {m}": m for _, m in tested}
    latent_m, carries_sm = found.predictors.latent, found.carriers.carries
    with TemporaryDirectory() as folder:
        head_dir = readers.head.save(folder)
        chosen = experiment(sae, readers, head_dir, None, list(concepts))
        by_hand = {
            name: [int(latent_m[m + 1]) if place % 2 else placebo[place]]
            for place, (name, m) in enumerate(concepts.items())
        }
        false = experiment(sae, readers, head_dir, by_hand, list(concepts))
    of_feature = {
        name for name, m in concepts.items()
        if (found.predictors.f1[m] >= RECOVERED and list(chosen[name].latents) == [int(latent_m[m])])
        or carries_sm[list(chosen[name].latents), m].all()
    }  # fmt: skip
    hits = {name for name, row in chosen.items() if row.verdict == SUPPORTED}
    return {
        "n_true": len(concepts),
        "n_chosen_of_feature": len(of_feature),
        "n_supported_true": len(hits & of_feature),
        "n_supported_other_latent": len(hits - of_feature),
        "n_false": len(false),
        "n_supported_false": sum(row.verdict == SUPPORTED for row in false.values()),
        "n_learned_true": sum(_learned(chosen[name]) for name in of_feature),
        "n_learned_false": sum(_learned(row) for row in false.values()),
        "verdicts": {name: row.to_dict() for name, row in chosen.items()},
    }


def _learned(row: Verdict) -> bool:
    return row.rungs["learned"].holds


def unit_counts(readers: Readers) -> tuple[np.ndarray, np.ndarray]:
    """Patches of each class among the images that choose and those that test."""
    n_classes, area = len(readers.read) + 1, 0
    area = np.prod(readers.backbone.image_size) // np.prod(readers.backbone.grid)
    counts = []
    for items in (readers.discovery, readers.test):
        masks = np.stack([readers.source.masks[item.image_id] for item in items])
        counts.append(np.bincount(masks.ravel(), minlength=256)[:n_classes] // area)
    return counts[0], counts[1]
