"""``saev.compare`` through its files: what it leaves, finds again, refuses."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from tests.fakes.commands import Run, assert_sentence
from tests.fakes.dictionary import make_sae

SMALL = (
    "comparison.n_permutations=39",
    "comparison.n_map_permutations=9",
    "comparison.n_bootstrap=20",
    "comparison.n_draws=30",
    "comparison.n_drives=2",
    "comparison.drive_images=2",
    "trainer.accelerator=cpu",
)


def links_of(page: Path) -> list[str]:
    found = re.findall(r'(?:href|src)="([^"#]+)"', page.read_text())
    return [link for link in found if not link.startswith("data:")]


@pytest.mark.slow
def test_comparison_of_a_dictionary_with_itself_and_others(
    run: Run, sae_dir: Path, tmp_path: Path
) -> None:
    other = make_sae(tmp_path / "other", seed=1)
    deeper = make_sae(tmp_path / "deeper", seed=0, layer=5)
    out = tmp_path / "comparison"
    saes = f"saes=[{sae_dir},{sae_dir},{other},{deeper}]"
    assert (
        run("compare", saes, "names=[one,twin,other,deeper]", f"hydra.run.dir={out}", *SMALL)
        is None
    )
    folder = out / "comparison"
    matches = pd.read_parquet(folder / "matches.parquet")
    twins = matches[(matches["sae_a"] == "one") & (matches["sae_b"] == "twin")]
    assert (twins["latent_a"] == twins["latent_b"]).mean() > 0.95
    assert twins["correlation"].min() == pytest.approx(1, abs=5e-6)
    assert twins["exemplar_jaccard"].min() == pytest.approx(1)
    different = matches[(matches["sae_a"] == "one") & (matches["sae_b"] == "other")]
    assert different["correlation"].median() < 0.9
    concepts = pd.read_parquet(folder / "concepts.parquet")
    same = concepts[(concepts["sae_a"] == "one") & (concepts["sae_b"] == "twin")]
    assert not set(same["verdict"]) & {"only_a", "only_b"}, "one lacks nothing that its twin has"
    assert set(pd.read_parquet(folder / "drives.parquet")["sae_b"]) == {"deeper"}
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["compare/one-twin/mutual"] > 0.95
    assert "compare/one-deeper/drive_match_rank_median" in metrics
    assert {"matches.png", "concepts.png"} <= {f.name for f in (folder / "figures").iterdir()}
    for link in links_of(folder / "index.html"):
        assert "://" not in link and (folder / link).is_file(), link
    codes = list((tmp_path / "outputs" / "codes").iterdir())
    assert len(codes) == 3, "the twins share their codes"


@pytest.mark.slow
def test_patches_pages_without_pictures_and_atlas_links(
    run: Run, sae_dir: Path, tmp_path: Path
) -> None:
    other, out = make_sae(tmp_path / "other", seed=1), tmp_path / "comparison"
    atlas = tmp_path / "atlas"
    pages = atlas / "latents" / "latent"
    pages.mkdir(parents=True)
    (pages / "0.html").touch()
    names = pd.DataFrame({"latent": range(96), "name": ["<b>star</b>"] + [None] * 95})
    names.to_parquet(atlas / "latents" / "latents.parquet")
    saes = f"saes=[{sae_dir},{other}]"
    more = ("comparison.rows=patch", "pages.thumbnails=false", f"atlases=[{atlas},null]",
            "comparison.n_images=12")  # fmt: skip
    assert run("compare", saes, f"hydra.run.dir={out}", *SMALL, *more) is None
    folder = out / "comparison"
    assert not (folder / "thumbs").exists()
    assert 'src="thumbs' not in (folder / "index.html").read_text()
    data = (folder / "assets" / "comparison.data.js").read_text()
    assert '"0":"<b>star</b>"' in data and '"a":[0]' in data
    small = names.head(5)
    small.to_parquet(atlas / "latents" / "latents.parquet")
    status = run("compare", saes, f"hydra.run.dir={out}", *SMALL, *more)
    assert_sentence(status, "atlases", "5 latents", "96")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["compare_clip_dinov2", "compare_vit_tiny"])
def test_named_runs(name: str, run: Run, sae_dir: Path, photos: Path, tmp_path: Path) -> None:
    other, out = make_sae(tmp_path / "other", seed=1), tmp_path / "comparison"
    # torch warns where there are more workers than cores, and one file is for a machine with many
    few = ("comparison.num_workers=2",) if name == "compare_clip_dinov2" else ()
    gone = ("~more_images.coco_seg", "~more_images.camvid") if name == "compare_vit_tiny" else ()
    status = run(
        "compare", f"+experiment={name}", f"saes=[{sae_dir},{other}]", f"hydra.run.dir={out}",
        f"images.roots=[{photos}]", "images.val_fraction=0.4", *SMALL, *gone, *few,
    )  # fmt: skip
    assert status is None
    assert (out / "comparison" / "index.html").is_file()


def test_bad_input(run: Run, sae_dir: Path) -> None:
    two = f"saes=[{sae_dir},{sae_dir}]"
    assert_sentence(run("compare", f"saes=[{sae_dir}]"), "two or more")
    assert_sentence(run("compare", two, "names=[a,a]"), "names")
    assert_sentence(run("compare", two, "weights=[null]"), "weights holds 1 entries for 2")
    assert_sentence(run("compare", two, "comparison.rows=token"), "rows='token'", "image or patch")
    assert_sentence(run("compare", two, "comparison.n_images=1"), "two or more")
    assert_sentence(run("compare", two, "atlases=[null,nowhere]"), "latents.parquet")
    table = "+comparison.tables.nowhere=x.csv"
    assert_sentence(run("compare", two, table), "comparison.tables", "nowhere", "scenes")
