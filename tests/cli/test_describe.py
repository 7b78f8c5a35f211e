"""``saev.describe`` through its files: what it leaves, resumes, refuses."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from saev.atlas.atlas import Atlas
from tests.fakes.commands import SMALL, Run, assert_sentence
from tests.fakes.dictionary import make_sae


def tables(run_dir: Path) -> dict[str, pd.DataFrame]:
    return {
        path.stem: pd.read_parquet(path) for path in sorted((run_dir / "latents").glob("*.parquet"))
    }


def test_leaves_tables_pages_and_metrics(described: Path) -> None:
    found = tables(described)
    latents, concepts = found["latents"], found["concepts"]
    assert latents["latent"].tolist() == list(range(96))
    for column in ("rate_token", "rate_image", "max", "dead", "name", "name_confidence", "proposer",
                   "ms", "ms_null", "label_entropy"):  # fmt: skip
        assert column in latents.columns
    for column in ("latent", "concept", "split", "auroc", "ap", "f1", "threshold", "q"):
        assert column in concepts.columns
    assert set(concepts["split"]) == {"discovery", "calibration", "test"}
    assert "shape=star" in set(concepts["concept"])
    assert set(found["baselines"].columns) == {"metric", "sae", "untrained", "raw", "pca", "random"}
    folder = described / "latents"
    alive = latents.sort_values("importance", ascending=False)["latent"]
    for page in ("index.html", "concepts.html", "about.html", f"latent/{alive.iloc[0]}.html"):
        assert (folder / page).is_file()
    record = json.loads((folder / f"latent/{alive.iloc[0]}.json").read_text())
    assert record["latent"] == alive.iloc[0]
    metrics = json.loads((described / "metrics.json").read_text())
    assert 0 <= metrics["latents/named_fraction"] <= 1
    assert 0 <= metrics["latents/named_fraction_shuffled"] <= 0.05


def test_every_table_answers_sql(described: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    page = (Path(__file__).parents[2] / "docs/elsewhere.md").read_text()
    (block,) = re.findall(r"```sql\n(.*?)```", page, flags=re.S)
    for file in (described / "latents").glob("*.parquet"):
        types = dict(duckdb.sql(f"describe select * from '{file}'").project("#1, #2").fetchall())
        odd = {name: kind for name, kind in types.items()
               if kind not in ("BIGINT", "DOUBLE", "FLOAT", "VARCHAR", "BOOLEAN")}  # fmt: skip
        assert odd == ({"coalition": "BIGINT[]"} if file.stem == "probes" else {}), file.name
        found = duckdb.sql(f"select count(*) from '{file}'").fetchall()
        assert found == [(len(pd.read_parquet(file)),)]
    queries = block.replace("outputs/my_atlas", str(described)).split(";")[:-1]
    named, exemplars, concepts = (duckdb.sql(query).df() for query in queries)
    expected = Atlas.open(described / "latents").latents["name"].notna().sum()
    assert len(named) == min(20, expected)
    assert len(exemplars) and (exemplars["value"] > 0).all()
    assert concepts["auroc"].dropna().is_monotonic_decreasing  # without a value: last
    assert "shape=star" in set(concepts["concept"])


def test_questions_on_the_command_line(described: Path, run: Run, capsys) -> None:
    atlas = Atlas.open(described / "latents")
    rare = atlas.latents.query("0 < rate_token < 0.1")["latent"]
    top = atlas.exemplars.query("role == 'max' and rank == 0").set_index("latent").loc[rare.iloc[0]]
    questions = {
        "star": "shape=star",
        "concept: shape star": "shape star",
        f"patches: {top['image_id']} {top['token']}": str(rare.iloc[0]),
        f"patches: {top['image_id']} 0.0 0.0 1.0 1.0": "144 patches",
        "images: scenes-1/00000* against scenes-1/00001*": "10 images share",
        "unnamed:": "importance",
        f"near: {rare.iloc[0]}": "coactivation",
    }
    for question, words in questions.items():
        assert run("describe", f"atlas_dir={described}", f"query={question}") is None
        assert words in capsys.readouterr().out, question
    status = run("describe", f"atlas_dir={described}", "query=patches: nowhere 3")
    assert_sentence(status, "nowhere", "scenes-1/000000")


def test_every_link_of_the_pages_leads_somewhere(described: Path) -> None:
    folder = described / "latents"
    checked = 0
    for page in [
        *folder.glob("*.html"),
        *folder.glob("concept/*.html"),
        *list(folder.glob("latent/*.html"))[:5],
    ]:
        for link in re.findall(r'(?:href|src)="([^"#]+)"', page.read_text()):
            if not link.startswith("data:"):
                assert "://" not in link, f"{page.name} needs a network for {link}"
                assert (page.parent / link).is_file(), f"{page.name}: {link}"
                checked += 1
    assert checked > 50


@pytest.mark.slow
def test_interrupted_run_gives_identical_tables(
    described: Path, run: Run, sae_dir: Path, tmp_path: Path, monkeypatch
) -> None:
    from saev.codes.store import CodeStore

    write, calls = CodeStore.write, []

    def stop_at_the_third(self, part, codes):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(part)
        write(self, part, codes)

    again = tmp_path / "again"
    with monkeypatch.context() as patch:
        patch.setattr(CodeStore, "write", stop_at_the_third)
        status = run("describe", f"sae={sae_dir}", f"hydra.run.dir={again}", *SMALL)
    assert status == 130
    assert not (again / "latents" / "latents.parquet").exists()
    assert run("describe", f"sae={sae_dir}", f"hydra.run.dir={again}", *SMALL) is None
    for name, frame in tables(described).items():
        pd.testing.assert_frame_equal(frame, tables(again)[name])


@pytest.mark.slow
def test_processes_that_share_the_images_give_the_same_tables(
    described: Path, run: Run, sae_dir: Path, tmp_path: Path
) -> None:
    again = tmp_path / "shared"
    common = (f"sae={sae_dir}", f"hydra.run.dir={again}", *SMALL)
    assert run("describe", *common, "atlas.shard=[1,2]") is None
    assert not (again / "latents" / "latents.parquet").exists(), "the other half is missing"
    assert run("describe", *common, "atlas.shard=[0,2]") is None
    pd.testing.assert_frame_equal(tables(described)["latents"], tables(again)["latents"])


def test_folder_of_another_dictionary_is_refused(described: Path, run: Run, tmp_path: Path) -> None:
    other = make_sae(tmp_path / "other", seed=1)
    status = run("describe", f"sae={other}", f"hydra.run.dir={described}", *SMALL)
    assert_sentence(status, "another dictionary", "hydra.run.dir")


@pytest.mark.parametrize(
    "content, words",
    [
        ("picture,wild\na,1\n", ("no column image_id", "picture")),
        ("image_id,wild\nnobody,1\n", ("nobody", "not in the source", "scenes-1/000000")),
        ("image_id,size\nscenes-1/000000,3.7\n", ("size", "numbers")),
        ("image_id,wild\nscenes-1/000000,1\nscenes-1/000000,0\n", ("twice",)),
        ("", ("cannot be read",)),
    ],
)
def test_label_files_that_do_not_match(
    run: Run, sae_dir: Path, tmp_path: Path, content: str, words: tuple[str, ...]
) -> None:
    table = tmp_path / "labels.csv"
    table.write_text(content)
    assert_sentence(run("describe", f"sae={sae_dir}", *SMALL, f"+atlas.tables.scenes={table}"),
                    "labels.csv", *words)  # fmt: skip


@pytest.mark.slow
def test_other_seeds_stand_beside_their_nulls(run: Run, sae_dir: Path, tmp_path: Path) -> None:
    other, out = make_sae(tmp_path / "other", seed=1), tmp_path / "atlas"
    status = run("describe", f"sae={sae_dir}", f"hydra.run.dir={out}", *SMALL, "atlas.baseline_images=0",
                 "naming.proposers=[vote]", f"atlas.seeds=[{other}]")  # fmt: skip
    assert status is None
    metrics = json.loads((out / "metrics.json").read_text())
    rows = tables(out)["stability"].set_index("dictionary")
    page = (out / "latents" / "index.html").read_text()
    assert rows.loc[str(other), "mean"] == pytest.approx(metrics["latents/stability"])
    for kind in ("isotropic", "covariance", "tokens"):
        chance = rows.loc[kind, "mean"]
        assert chance == pytest.approx(metrics[f"latents/stability_null/{kind}"])
        assert f"<td>{chance:.3f}</td>" in page
    assert metrics["latents/stability_null/isotropic"] < metrics["latents/stability_null/tokens"]


@pytest.mark.slow
def test_other_bad_input(run: Run, sae_dir: Path, tmp_path: Path) -> None:
    alone = (*SMALL, "atlas.num_workers=0")
    assert_sentence(run("describe"), "sae is not set")
    assert_sentence(run("describe", f"sae={tmp_path / 'none'}"), "none")
    assert_sentence(run("describe", "query=star"), "atlas_dir")
    assert_sentence(run("describe", "query=star", f"atlas_dir={tmp_path}"), "latents.parquet")
    status = run("describe", f"sae={sae_dir}", *alone, "naming.proposers=[guess]")
    assert_sentence(status, "guess", "effect")
    status = run(
        "describe", f"sae={sae_dir}", *alone, f"naming.vocabulary={tmp_path / 'words.txt'}"
    )
    assert_sentence(status, "words.txt")
    status = run("describe", f"sae={sae_dir}", *alone, f"naming.tree={tmp_path / 'tree.csv'}")
    assert_sentence(status, "tree.csv", "child and parent")


@pytest.mark.slow
def test_attribute_table_becomes_concepts(run: Run, sae_dir: Path, tmp_path: Path) -> None:
    ids = [f"scenes-1/{i:06d}" for i in range(28)]
    table = tmp_path / "mood.csv"
    rows = [f"{image_id},{i % 2},{'warm' if i % 3 else 'cold'}" for i, image_id in enumerate(ids)]
    table.write_text("image_id,odd,mood\n" + "\n".join(rows) + "\n")
    out = tmp_path / "atlas"
    more = ("naming.proposers=[vote]", "pages.enabled=false", f"+atlas.tables.scenes={table}")
    status = run(
        "describe", f"sae={sae_dir}", f"hydra.run.dir={out}", *SMALL, *more
    )  # fmt: skip
    assert status is None
    concepts = tables(out)["concepts"]
    assert {"odd", "mood=warm", "mood=cold"} <= set(
        concepts.loc[concepts["source"] == "mood", "concept"]
    )
