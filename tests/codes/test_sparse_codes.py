"""Sparse parts hold what dense codes held; stores give it back, in parts or whole."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from saev.codes.sparse_codes import per_image
from saev.codes.store import CodeStore
from saev.errors import UserError
from tests.fakes.codes import N_IMAGES, N_LATENTS, N_TOKENS, build, dense_codes

IDS = [f"image-{n}" for n in range(N_IMAGES)]


def fill(folder: Path, z: torch.Tensor, images_per_part: int = 4) -> CodeStore:
    store = CodeStore.create(
        folder, IDS, n_latents=N_LATENTS, n_tokens=N_TOKENS, identity={"x": 1},
        images_per_part=images_per_part,
    )  # fmt: skip
    for part in store.missing():
        span = store.images_of(part)
        store.write(part, build(z[span.start : span.stop]))
    return store


def test_part_holds_every_positive_code_once() -> None:
    z = dense_codes()
    part = build(z)
    latent = np.repeat(np.arange(N_LATENTS), np.diff(part.indptr))
    again = np.zeros((N_IMAGES * N_TOKENS, N_LATENTS), np.float32)
    again[part.row, latent] = part.value
    np.testing.assert_array_equal(again.reshape(z.shape), z.numpy())
    assert (part.value > 0).all()


def test_tokens_that_are_not_normal_have_no_codes() -> None:
    z, normal = dense_codes(), torch.ones(N_IMAGES, N_TOKENS, dtype=torch.bool)
    normal[2], normal[5, 1] = False, False
    part = build(z, normal)
    rows = part.row
    assert not set(range(12, 18)) & set(rows.tolist())
    assert 5 * N_TOKENS + 1 not in rows
    np.testing.assert_array_equal(part.normal, normal.numpy())


def test_gathered_per_image() -> None:
    z = dense_codes()
    part = build(z)
    latent = np.repeat(np.arange(N_LATENTS), np.diff(part.indptr))
    found = per_image(latent, part.row.astype(np.int64), part.value, N_TOKENS)
    expected = {
        (k, i): (float(z[i, :, k].max()), float(z[i, :, k].sum()), int(z[i, :, k].argmax()),
                 int((z[i, :, k] > 0).sum()))
        for k in range(N_LATENTS) for i in range(N_IMAGES) if z[i, :, k].any()
    }  # fmt: skip
    got = {
        (int(k), int(i)): (float(m), pytest.approx(float(s), abs=1e-5), int(t), int(c))
        for k, i, m, s, t, c in zip(*found, strict=True)
    }
    assert got.keys() == expected.keys()
    assert all(expected[key] == value for key, value in got.items())


@pytest.mark.parametrize("images_per_part", [2, 4, 100])
def test_store_gives_back_the_codes(tmp_path: Path, images_per_part: int) -> None:
    z = dense_codes()
    store = fill(tmp_path / "codes", z, images_per_part)
    latent, row, value = CodeStore.open(tmp_path / "codes").token_codes(2, 7)
    again = np.zeros((N_IMAGES * N_TOKENS, N_LATENTS), np.float32)
    again[row, latent] = value
    np.testing.assert_array_equal(again.reshape(z.shape)[..., 2:7], z.numpy()[..., 2:7])
    images = store.image_codes()
    assert (np.diff(images.latent) >= 0).all()
    peaks = np.zeros((N_LATENTS, N_IMAGES), np.float32)
    peaks[images.latent, images.image] = images.max
    np.testing.assert_array_equal(peaks, z.amax(1).T.numpy())
    for image in (0, 3, 10):
        maps = store.image_map(image, np.array([1, 4]))
        np.testing.assert_array_equal(maps, z[image, :, [1, 4]].T.numpy())


def test_chunks_cover_every_latent_within_the_limit(tmp_path: Path) -> None:
    store = fill(tmp_path / "codes", dense_codes())
    limit = 60
    spans = list(store.chunks(limit))
    assert [k for a, b in spans for k in range(a, b)] == list(range(N_LATENTS))
    assert len(spans) > 1
    assert all(len(store.token_codes(a, b)[0]) <= limit or b - a == 1 for a, b in spans)


def test_interrupted_store_goes_on_where_it_stopped(tmp_path: Path) -> None:
    z = dense_codes()
    whole = fill(tmp_path / "whole", z)
    store = fill(tmp_path / "again", z)
    store.path(1).unlink()
    (store.folder / f".{store.path(2).name}.1.tmp").write_bytes(b"half a file")
    resumed = CodeStore.create(
        tmp_path / "again", IDS, n_latents=N_LATENTS, n_tokens=N_TOKENS, identity={"x": 1},
        images_per_part=4,
    )  # fmt: skip
    assert resumed.missing() == [1]
    span = resumed.images_of(1)
    resumed.write(1, build(z[span.start : span.stop]))
    for mine, theirs in zip(resumed.image_codes(), whole.image_codes(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_codes_of_something_else_are_not_mixed_in(tmp_path: Path) -> None:
    fill(tmp_path / "codes", dense_codes())
    with pytest.raises(UserError, match="another dictionary"):
        CodeStore.create(
            tmp_path / "codes", IDS, n_latents=N_LATENTS, n_tokens=N_TOKENS, identity={"x": 2},
            images_per_part=4,
        )  # fmt: skip


@pytest.mark.parametrize("harm", ["cut", "text", "swapped"])
def test_damaged_part_is_named(tmp_path: Path, harm: str) -> None:
    store = fill(tmp_path / "codes", dense_codes())
    path = store.path(1)
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    elif harm == "text":
        path.write_text("nothing")
    else:
        path.write_bytes(store.path(2).read_bytes())  # three images where four belong
    with pytest.raises(UserError, match="part-000001"):
        store.read(1)


def test_damaged_manifest_and_missing_folder(tmp_path: Path) -> None:
    store = fill(tmp_path / "codes", dense_codes())
    (store.folder / "codes.json").write_text("{")
    with pytest.raises(UserError, match=r"codes\.json is damaged"):
        CodeStore.open(store.folder)
    with pytest.raises(UserError, match=r"saev\.describe"):
        CodeStore.open(tmp_path)
    newer = json.dumps({"format_version": 99})
    (store.folder / "codes.json").write_text(newer)
    with pytest.raises(UserError, match="newer"):
        CodeStore.open(store.folder)


def test_missing_part_asks_to_run_again(tmp_path: Path) -> None:
    store = fill(tmp_path / "codes", dense_codes())
    store.path(0).unlink()
    with pytest.raises(UserError, match="missing"):
        store.image_codes()
