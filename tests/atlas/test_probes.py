"""Probes, coalitions and foreign images on planted codes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse

from datamodules.images import ScenesImages
from saev.atlas.probes import foreign_table, probe_table
from saev.codes.images import ImageList
from saev.codes.store import CodeStore
from saev.concepts.best_latents import Concepts, score_concepts
from saev.errors import UserError
from saev.metrics.ood import code_surprise, separation
from tests.fakes.codes import build

N, P, S = 90, 3, 8


def store_of(folder: Path, z: torch.Tensor) -> CodeStore:
    store = CodeStore.create(
        folder / "codes", [str(i) for i in range(len(z))], n_latents=S, n_tokens=P, identity={},
        images_per_part=40,
    )  # fmt: skip
    for part in store.missing():
        span = store.images_of(part)
        store.write(part, build(z[span.start : span.stop]))
    return store


def test_split_concept_needs_a_coalition(tmp_path: Path) -> None:
    """Latents 2 and 5 cover half of the concept each; latent 2 alone tells the other one fully."""
    rng = np.random.default_rng(0)
    label = rng.random((N, 2)) < 0.4
    half = rng.random(N) < 0.5
    label[:, 1] = label[:, 0] & half
    z = torch.from_numpy((rng.random((N, P, S)) < 0.1) * rng.random((N, P, S))).float()
    z[..., 2] = z[..., 5] = 0
    z[torch.from_numpy(label[:, 0] & half), 1, 2] = 3
    z[torch.from_numpy(label[:, 0] & ~half), 1, 5] = 3
    concepts = Concepts(
        "toy", "class", ["split", "whole"], np.arange(N),
        ["discovery"] * 40 + ["calibration"] * 20 + ["test"] * 30,
        sparse.csr_matrix(label.astype(float)),
    )  # fmt: skip
    store = store_of(tmp_path, z)
    found = probe_table(store, [score_concepts(store, concepts, n_permutations=9)])
    found = found.set_index("concept")
    assert set(found.loc["split", "coalition"]) == {2, 5}
    assert found.loc["split", "coalition_f1"] == 1.0 > found.loc["split", "single_f1"]
    assert found.loc["whole", "coalition"] == [2]
    assert found.loc["whole", "probe_r"] > 0.9 > found.loc["split", "probe_r"]


def test_foreign_images_are_told_by_their_codes(tmp_path: Path) -> None:
    one, two = ScenesImages(60), ScenesImages(30, seed=2)
    images = ImageList.of({"one": one, "two": two}, None)
    generator = torch.Generator().manual_seed(0)
    z = (torch.rand(N, P, S, generator=generator) < 0.3).float()
    z[:60, :, 6:], z[60:, :, :2] = 0, 0  # two latents are for foreign images alone
    store = store_of(tmp_path, z)
    splits = ["discovery"] * 40 + ["test"] * 20 + ["discovery"] * 30
    table = foreign_table(store, images, splits, ["two"]).set_index("score")
    score = code_surprise(z[:40].amax(1).numpy(), z.amax(1).numpy())
    expected = separation(score[40:60], score[60:])
    assert table.loc["codes", "auroc"] == pytest.approx(expected.auroc)
    assert table.loc["codes", "fpr95"] == pytest.approx(expected.fpr95)
    assert table.loc["codes", "auroc"] > 0.8
    assert table.loc["knn", "n_known"] == 20 and table.loc["knn", "n_foreign"] == 30
    with pytest.raises(UserError, match="three"):
        foreign_table(store, images, splits, ["three"])
    with pytest.raises(UserError, match="no images on one side"):
        foreign_table(store, images, splits, ["one", "two"])
