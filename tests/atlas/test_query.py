"""Questions in one line, against an atlas made by hand."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from saev.atlas.atlas import TABLES, Atlas
from saev.atlas.query import ask, with_examples
from saev.codes.store import CodeStore
from saev.errors import UserError
from tests.fakes.codes import build

N_IMAGES, N_TOKENS, N_LATENTS = 6, 4, 5
IDS = [f"{kind}/{number}" for kind in ("cat", "dog") for number in range(3)]


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    """Latent 0 fires everywhere, 1 on the second patch of image 2, 2 on cats, 3 on dogs, 4 never."""
    folder = tmp_path_factory.mktemp("latents")
    z = torch.zeros(N_IMAGES, N_TOKENS, N_LATENTS)
    z[..., 0] = 5
    z[2, 1, 1] = 2
    z[2, 3, 1] = 1
    z[:3, 0, 2] = 1
    z[3:, 2, 3] = torch.tensor([1.0, 2.0, 3.0])
    store = CodeStore.create(
        folder / "codes",
        IDS,
        n_latents=N_LATENTS,
        n_tokens=N_TOKENS,
        identity={},
        images_per_part=4,
    )
    for part in store.missing():
        span = store.images_of(part)
        store.write(part, build(z[span.start : span.stop]))
    fires = (z > 0).flatten(0, 1).float().mean(0).numpy()
    latents = pd.DataFrame(
        {
            "latent": range(N_LATENTS), "rate_token": fires, "dead": fires == 0,
            "rate_image": (z.amax(1) > 0).float().mean(0).numpy(),
            "name": [None, None, "tabby", None, None], "name_confidence": [0, 0, 0.8, 0, 0.0],
            "importance": [0.6, 0.1, 0.2, 0.3, 0.0], "ms": np.nan, "best_concept": None,
            "concept_f1": np.nan,
        }
    )  # fmt: skip
    concepts = pd.DataFrame(
        [(2, "cat", "a", "class", "test", 1.0, 1.0, 0.9, 0.01, 0),
         (0, "cat", "a", "class", "test", 0.5, 0.5, 0.6, 1.0, 1),
         (3, "dog", "a", "class", "test", 1.0, 1.0, 1.0, 0.01, 0)],
        columns=["latent", "concept", "source", "kind", "split", "auroc", "ap", "f1", "q", "rank_f1"],
    )  # fmt: skip
    exemplars = pd.DataFrame(
        {
            "latent": [2, 2, 3],
            "role": "max",
            "rank": [1, 0, 0],
            "image_id": [IDS[1], IDS[0], IDS[5]],
        }
    )
    names = pd.DataFrame(
        {"latent": [3], "proposer": ["vote"], "rank": [0], "name": ["beagle"], "confidence": [0.2]}
    )
    near = pd.DataFrame(
        [(2, "atom", 0, 3, 0.4), (2, "coactivation", 0, 0, 0.7), (2, "atom", 1, 1, 0.1)],
        columns=["latent", "kind", "rank", "neighbour", "likeness"],
    )
    frames = (latents, concepts, exemplars, names, near)
    for name, frame in zip(TABLES, frames, strict=True):
        frame.to_parquet(folder / f"{name}.parquet")
    images = [{"image_id": one, "source": "a", "split": "test"} for one in IDS]
    (folder / "images.json").write_text(json.dumps(images))
    (folder / "atlas.json").write_text(json.dumps({"format_version": 1, "grid": [2, 2]}))
    return Atlas.open(folder)


def test_words_in_names_proposals_and_concepts(atlas: Atlas) -> None:
    assert ask(atlas, "tabby").table["latent"].tolist() == [2]
    assert ask(atlas, "beagle").table["latent"].tolist() == [3], "proposed, though not chosen"
    assert ask(atlas, "cat").table["latent"].tolist() == [2, 0]
    assert ask(atlas, "nothing").table.empty


def test_a_concept_by_name(atlas: Atlas) -> None:
    assert ask(atlas, "concept: cat").table["latent"].tolist() == [2, 0]
    with pytest.raises(UserError, match=r"no concept 'cow'.*cat"):
        ask(atlas, "concept: cow")


@pytest.mark.parametrize("where", ["1", "1 0", "0.5 0.0 1.0 0.5"])
def test_what_is_this_patch(atlas: Atlas, where: str) -> None:
    """Sums over the marked patches, without latents that fire on everything."""
    found = atlas.for_patches("cat/2", [1], max_rate=0.5)
    assert found["latent"].tolist() == [1]
    assert found["sum"].tolist() == [2.0] and found["share"].tolist() == pytest.approx([2 / 3])
    asked = ask(atlas, f"patches: cat/2 {where}").table  # fires on a twelfth of all tokens
    assert asked["latent"].iloc[0] == 1
    assert 0 not in asked["latent"].tolist()


def test_what_images_share_that_others_lack(atlas: Atlas) -> None:
    found = ask(atlas, "images: cat/* against dog/0 dog/1").table
    assert found["latent"].iloc[0] == 2 and found["auroc"].iloc[0] == 1.0
    assert ask(atlas, "images: dog/* against cat/*").table["latent"].iloc[0] == 3
    with pytest.raises(UserError, match="none of them both"):
        ask(atlas, "images: cat/* against cat/1")


def test_important_but_unnamed(atlas: Atlas) -> None:
    assert ask(atlas, "unnamed:").table["latent"].tolist() == [0, 3, 1]


def test_neighbours_of_both_kinds(atlas: Atlas) -> None:
    found = ask(atlas, "near: 2").table
    assert found["latent"].tolist() == [3, 1, 0]
    assert found["kind"].tolist() == ["atom", "atom", "coactivation"]


def test_answers_carry_names_and_strongest_images(atlas: Atlas) -> None:
    answer = ask(atlas, "concept: cat")
    found = with_examples(atlas, answer.table).set_index("latent")
    assert found.loc[2, "name"] == "tabby"
    assert found.loc[2, "strongest images"] == "cat/0, cat/1"


@pytest.mark.parametrize(
    "query, words",
    [
        ("patches: cat/2", "cannot be read"),
        ("patches: cat/2 x", "cannot be read"),
        ("patches: cat/2 0.1 0.2 0.3", "cannot be read"),
        ("patches: cat/9 1", "cat/9 is not in the atlas"),
        ("patches: cat/2 4", "from 0 to 3"),
        ("images: cat/0 dog/0", "against"),
        ("images: cow/* against dog/0", "no image of the atlas is called cow"),
        ("near: x", "near: 17"),
        ("near: 99", "latent 99"),
        ("", "one or more words"),
    ],
)
def test_unreadable_questions_get_a_sentence(atlas: Atlas, query: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        ask(atlas, query)


@pytest.mark.parametrize("name", ["atlas.json", "images.json", "latents.parquet"])
def test_damaged_folder_is_refused(atlas: Atlas, tmp_path: Path, name: str) -> None:
    import shutil

    folder = tmp_path / "latents"
    shutil.copytree(atlas.folder, folder)
    (folder / name).write_text("{")
    with pytest.raises(UserError, match="damaged"):
        Atlas.open(folder)


def damaged(atlas: Atlas, folder: Path, name: str, content: bytes | pd.DataFrame) -> Path:
    """A copy of the atlas with one other file."""
    shutil.copytree(atlas.folder, folder)
    if isinstance(content, bytes):
        (folder / name).write_bytes(content)
    else:
        content.to_parquet(folder / name)
    return folder


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("atlas.json", b"{}", "grid is missing"),
        ("atlas.json", b'{"grid": [0, 3]}', r"grid\[0\] is 0"),
        ("atlas.json", b'{"grid": "ab"}', "grid is 'ab'"),
        ("atlas.json", b"[" * 100_000, "missing or damaged"),
        ("images.json", b"{}", "it is {} where a list"),
        ("images.json", b"[]", "a list of"),
        ("images.json", b"[5]", "is 5 where key: value pairs belong"),
        ("images.json", b'[{"image_id": 5}]', "image_id is 5"),
        ("latents.parquet", b"PAR1", "cannot be read as a table"),
        ("latents.parquet", pd.DataFrame({"latent": [1]}), "has no column name"),
        ("names.parquet", pd.DataFrame({"a": [1]}), "has no column latent"),
        (
            "coactivation.parquet",
            pd.DataFrame({"latent": [0], "kind": ["a"], "rank": ["x"], "neighbour": [1]}),
            "has no numbers in rank",
        ),
    ],
)
def test_a_damaged_atlas_is_refused_in_a_sentence(
    atlas: Atlas, tmp_path: Path, name: str, content, words: str
) -> None:
    with pytest.raises(UserError, match=words) as found:
        Atlas.open(damaged(atlas, tmp_path / "a", name, content))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    "query", ["patches:", "patches: cat/2", "images:", "images: against", "near:", "near: 99", "",
              "concept:", "unnamed: ", "patches: cat/2 0.1", "patches: cat/2 99999999999999999999"]
)  # fmt: skip
def test_a_question_that_is_none_is_one_sentence(atlas: Atlas, query: str) -> None:
    try:
        ask(atlas, query)
    except UserError as error:
        assert "\n" not in str(error)


def test_a_table_without_what_a_question_needs(atlas: Atlas, tmp_path: Path) -> None:
    latents = atlas.latents.drop(columns=["dead", "importance"])
    other = Atlas.open(damaged(atlas, tmp_path / "a", "latents.parquet", latents))
    with pytest.raises(UserError, match="cannot be answered from the tables"):
        ask(other, "unnamed:")


def test_a_table_of_a_few_bytes_and_many_rows_is_not_read(atlas: Atlas, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = damaged(atlas, tmp_path / "a", "atlas.json", b'{"grid": [2, 2]}')
    piece = pa.table({"latent": pa.array(np.zeros(10**6, np.int8))})
    with pq.ParquetWriter(folder / "latents.parquet", piece.schema, compression="zstd") as writer:
        for _ in range(101):
            writer.write_table(piece)
    assert (folder / "latents.parquet").stat().st_size < 10**6
    with pytest.raises(UserError, match="101,000,000 rows"):
        Atlas.open(folder)
