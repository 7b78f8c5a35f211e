"""Codes of images leave as files that others can read, and come back the same."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from saev.codes.encoded_images import METADATA, EncodedImages
from saev.errors import UserError


@pytest.fixture
def encoded() -> EncodedImages:
    """Two images of three tokens, five latents; the second image has no code."""
    dense = np.zeros((6, 5), np.float32)
    dense[0, [1, 4]], dense[2, 0] = (0.5, 2.0), 1.25
    return EncodedImages(sparse.csr_matrix(dense), ["watch/é 1.jpg", "b"], [0, 5, 6],
                         ["class", "patch", "patch"], (1, 2))  # fmt: skip


def test_the_matrix_is_read_without_us(encoded, tmp_path: Path) -> None:
    path = encoded.save(tmp_path / "codes.npz")
    matrix = sparse.load_npz(path)
    assert isinstance(matrix, sparse.csr_matrix) and matrix.dtype == np.float32
    assert np.array_equal(matrix.toarray(), encoded.codes.toarray())
    with np.load(path, allow_pickle=False) as arrays:
        assert arrays["image_ids"].tolist() == ["watch/é 1.jpg", "b"]
        assert arrays["positions"].tolist() == [0, 5, 6]
        assert arrays["token_names"].tolist() == ["class", "patch", "patch"]
        assert arrays["grid"].tolist() == [1, 2] and int(arrays["format_version"]) == 1


def test_they_come_back_the_same(encoded, tmp_path: Path) -> None:
    again = EncodedImages.load(encoded.save(tmp_path / "codes.npz"))
    assert repr(again) == repr(encoded) and np.array_equal(again.of("b"), np.zeros((3, 5)))
    for name in ("image_ids", "positions", "token_names", "grid", "n_tokens", "shape"):
        assert getattr(again, name) == getattr(encoded, name), name
    assert np.array_equal(again.codes.toarray(), encoded.codes.toarray())


def test_the_table_has_the_rows_of_the_frame_and_says_what_they_leave_out(
    encoded, tmp_path: Path
) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(encoded.to_parquet(tmp_path / "codes.parquet"))
    assert table.to_pylist() == encoded.to_frame().to_dict("records")
    assert table.to_pylist()[-1] == {
        "image_id": "watch/é 1.jpg", "token": 2, "latent": 0, "code": 1.25,
    }  # fmt: skip
    said = json.loads(table.schema.metadata[METADATA])
    assert said["image_ids"] == encoded.image_ids and said["n_latents"] == 5
    assert (said["positions"], said["grid"]) == ([0, 5, 6], [1, 2])


def _of_other_images(arrays: dict) -> None:
    arrays["image_ids"] = arrays["image_ids"][:1]


def _out_of_range(arrays: dict) -> None:
    arrays["indices"] = arrays["indices"] + 5


def _of_a_newer_saev(arrays: dict) -> None:
    arrays["format_version"] = np.array(9)


def _without_ids(arrays: dict) -> None:
    del arrays["image_ids"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_of_other_images, "6 rows for 1 images of 3 tokens"),
        (_out_of_range, "no codes that can be read"),
        (_of_a_newer_saev, "format version 9"),
        (_without_ids, "image_ids"),
    ],
)
def test_what_does_not_fit_is_refused(encoded, tmp_path: Path, damage, words: str) -> None:
    path = encoded.save(tmp_path / "codes.npz")
    with np.load(path) as found:
        arrays = dict(found)
    damage(arrays)
    np.savez(path, **arrays)
    with pytest.raises(UserError, match=words):
        EncodedImages.load(path)


def test_other_names_and_files_are_refused(encoded, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must end in \.npz"):
        encoded.save(tmp_path / "codes.csv")
    with pytest.raises(UserError, match=r"must end in \.parquet"):
        encoded.to_parquet(tmp_path / "codes.npz")
    (tmp_path / "codes.npz").write_bytes(b"PK\x03\x04 cut off")
    for name in ("codes.npz", "nothing.npz"):
        with pytest.raises(UserError, match="holds no codes that can be read"):
            EncodedImages.load(tmp_path / name)
