"""The seven numbers on planted images: units, what is lacking, verdicts, and one pass by a plain loop."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.images import ImageItem
from saev.defaults import defaults
from saev.evaluation.baselines.cells import Cell
from saev.evaluation.baselines.methods import Contender
from saev.evaluation.baselines.table import PassSettings
from saev.evaluation.visaebench.benchmark_arms import OWN, UNTRAINED, benchmark_arms
from saev.evaluation.visaebench.benchmark_files import benchmark_metrics, benchmark_rows
from saev.evaluation.visaebench.benchmark_table import (
    BenchmarkTable,
    Judge,
    lacking_data,
    spread_out,
    verdicts_of,
)
from saev.evaluation.visaebench.image_features import ArmFeatures, ImageFeatures
from saev.evaluation.visaebench.leaderboard import leaderboard_rows, mean_ranks
from saev.evaluation.visaebench.page import write_benchmark_page
from saev.evaluation.visaebench.patch_pass import embedding_by, patch_pass, whole_labels
from saev.evaluation.visaebench.settings import BenchmarkSettings
from saev.evaluation.visaebench.seven_numbers import (
    SEVEN,
    BenchmarkImages,
    Number,
    seven_numbers,
)
from saev.metrics.visaebench.fvu import fvu
from saev.metrics.visaebench.morans_i import morans_i
from saev.sae import SAEConfig, SparseAutoencoder
from tests.fakes.backbone import WIDTH, TinyBackbone
from tests.fakes.images import TinyImages

RUN = PassSettings(False, None, 3, 0, "cpu")
SIDE, CLASSES = 4, 4


def settings(**changes: Any) -> BenchmarkSettings:
    small = {"n_bootstrap": 60, "min_images": 3, "ks": [1, 2, 4]}
    return BenchmarkSettings(
        **{**defaults("evaluate", "visaebench"), "seed": 0, **small, **changes}
    )


def tiny_sae(max_norm: float | None = None, which: str = "patch") -> SparseAutoencoder:
    cfg = SAEConfig(
        d_model=WIDTH, d_sae=12, activation="topk", k=3, layer=1, tokens={"which": which}
    )
    sae = SparseAutoencoder(cfg, torch.Generator().manual_seed(0)).requires_grad_(False)
    sae.set_statistics(torch.full((WIDTH,), 0.1), 0.5, max_norm)
    return sae


def planted(n: int = 80, seed: int = 0) -> ImageFeatures:
    """A dictionary with ten latents for each class, in a block of patches, and one of noise."""
    rng = np.random.default_rng(seed)
    label = np.arange(n) % CLASSES
    x = torch.from_numpy(rng.normal(size=(n, SIDE**2, 6)))
    x[:, :, 0] += torch.from_numpy(label)[:, None]
    maps = np.zeros((n, 10 * CLASSES, SIDE, SIDE))
    for image, own in enumerate(label):
        maps[image, 10 * own : 10 * own + 10, :3, :2] += 1 + rng.random((10, 3, 2))
    noise = rng.random(maps.shape) * (rng.random(maps.shape) < 0.5)
    arms = {OWN: (maps, x * 0.9), UNTRAINED: (noise, x * 0.2)}
    found = {
        name: ArmFeatures(
            codes.max((2, 3)).astype(np.float32), x_hat.sum(1).numpy(), fvu(x, x_hat).sums_n4,
            fvu(x, x_hat.flip(0)).sums_n4, morans_i(torch.from_numpy(codes).float()),
        )
        for name, (codes, x_hat) in arms.items()
    }  # fmt: skip
    embedding = np.eye(CLASSES)[label] + 0.1 * rng.random((n, CLASSES))
    return ImageFeatures(
        label, np.full(n, SIDE**2, float), SIDE**2, x.sum(1).numpy(), found, embedding
    )


def images(**changes: Any) -> BenchmarkImages:
    own = planted()
    given = {"own": own, "embedding_ne": own.embedding_ne, "other": planted(48, 1)}
    groups = {"all": list(range(CLASSES))}
    return BenchmarkImages(**{"settings": settings(), "groups": groups, **given, **changes})


@cache
def standard() -> dict[str, dict[str, Number]]:
    return numbers(images())


NOT_THERE = Number(Cell(float("nan"), np.empty(0)), float("nan"), "no others", {})


def numbers(images: BenchmarkImages) -> dict[str, dict[str, Number]]:
    found = {name: seven_numbers(images, name) for name in images.own.arms}
    return {metric.key: {name: found[name][metric.key] for name in found} for metric in SEVEN}


def table(found: dict[str, dict[str, Number]]) -> BenchmarkTable:
    arms = [Contender(name, tiny_sae(), TinyBackbone(), name != OWN, "x") for name in found["fvu"]]
    return BenchmarkTable(
        arms, found, verdicts_of(found), Judge("Tiny", False), {"planted": 80}, 0.0
    )


def test_all_seven_with_nulls_and_intervals_that_hold_the_value() -> None:
    found = standard()
    for metric in SEVEN:
        for name, one in found[metric.key].items():
            low, high = one.cell.interval
            assert one.reason is None and not np.isnan(one.null), (metric.key, name)
            assert low - 1e-9 <= one.cell.value <= high + 1e-9, (metric.key, name)
    own = {key: found[key][OWN] for key in found}
    assert own["sparse_probing"].cell.value > 0.7 > own["sparse_probing"].null
    assert own["absorption"].cell.value == 0
    assert own["spatial_coherence"].cell.value > 0.2 > 0 > own["spatial_coherence"].null
    assert own["monosemanticity"].cell.value > own["monosemanticity"].null + 0.2
    assert found["fvu"][UNTRAINED].null > 1 > found["fvu"][UNTRAINED].cell.value > 0.5
    assert set(own["transfer"].details["parts"]) >= {"coverage", "overlap"}


def test_verdicts_look_in_the_good_direction_of_each() -> None:
    verdicts = verdicts_of(standard())
    assert all(verdicts[metric.key].separates for metric in SEVEN)
    swapped = {
        key: {OWN: pair[UNTRAINED], UNTRAINED: pair[OWN]} for key, pair in standard().items()
    }
    assert not any(one.separates for one in verdicts_of(swapped).values())
    assert verdicts_of(swapped)["fvu"].separates is False


def test_what_is_lacking_says_why_and_leaves_the_others() -> None:
    own = replace(planted(), label_n=None)
    lacking = lacking_data(own, None, None, spatial=False)
    assert set(lacking) == {m.key for m in SEVEN} - {"fvu", "monosemanticity"}
    assert "images@transfer_images" in lacking["transfer"] and "label" in lacking["probe_ratio"]
    found = numbers(images(own=own, other=None, groups=None, lacking=lacking))
    measured = {key for key, pair in found.items() if pair[OWN].reason is None}
    assert measured == {"fvu", "monosemanticity"}
    assert np.isnan(found["transfer"][OWN].cell.value)
    assert verdicts_of(found)["transfer"].separates is None
    assert "siblings" in lacking_data(planted(), planted(), None, spatial=True)["absorption"]
    assert "kind has a label" in lacking_data(planted(), own, None, spatial=True)["transfer"]
    assert lacking_data(planted(), planted(), {"a": [0]}, spatial=True) == {}


def test_one_that_fails_says_so_in_its_row() -> None:
    short = planted()
    short = replace(short, label_n=np.arange(80) % 17 + 100)  # more classes than test images
    found = numbers(images(own=short, settings=settings(min_images=1000)))
    for key in ("probe_ratio", "sparse_probing"):
        assert "classes" in str(found[key][OWN].reason), key
    assert "1000 images (visaebench.min_images)" in str(found["spatial_coherence"][OWN].reason)
    assert "three classes" in str(found["absorption"][OWN].reason)
    assert found["fvu"][OWN].reason is None


def test_files_and_metrics(tmp_path: Path) -> None:
    made = table({**standard(), "transfer": {OWN: NOT_THERE, UNTRAINED: NOT_THERE}})
    rows = benchmark_rows(made)
    assert list(rows["metric"].unique()) == [metric.key for metric in SEVEN]
    assert len(rows) == 14 and rows["reason"].notna().sum() == 2
    flat = benchmark_metrics(made)
    assert (
        flat["visaebench/fvu"] < flat["visaebench/fvu_untrained"] < flat["visaebench/fvu_null"] * 2
    )
    assert flat["visaebench/fvu_separates"] == 1 and "visaebench/transfer" not in flat
    write_benchmark_page(made, tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert "not measured: no others" in page and "own backbone judges" in page
    assert (tmp_path / "numbers.png").stat().st_size > 10_000


def test_the_leaderboard_ranks_each_number_in_its_good_direction() -> None:
    good = table(standard())
    bad = table({key: {**pair, OWN: pair[UNTRAINED]} for key, pair in standard().items()})
    ranks = mean_ranks({"bad": bad, "good": good})
    assert [(name, rank.value) for name, rank in ranks.items()] == [("good", 1.0), ("bad", 2.0)]
    same = mean_ranks({"one": good, "same": good})
    assert set(same.values()) == {(1.5, 1.5, 1.5)}
    rows = leaderboard_rows({"bad": bad, "good": good})
    assert list(rows["name"].unique()) == ["good", "bad"] and len(rows) == 14
    assert (
        rows["untrained"] == [standard()[key][UNTRAINED].cell.value for key in rows["metric"]]
    ).all()


def test_a_rank_is_as_sure_as_the_images_make_it() -> None:
    def of(values: dict[str, float], spread: float) -> dict[str, BenchmarkTable]:
        drawn = {
            name: value + spread * np.random.default_rng(seed).normal(size=60)
            for seed, (name, value) in enumerate(values.items())
        }
        return {
            name: table({
                key: {**pair, OWN: Number(Cell(value, drawn[name]), 0.0, None, {})
                      if key == "monosemanticity" else NOT_THERE}
                for key, pair in standard().items()
            })
            for name, value in values.items()
        }  # fmt: skip

    values = {"a": 0.5, "b": 0.6}
    assert mean_ranks(of(values, 0.01)) == {"b": (1, 1, 1), "a": (2, 2, 2)}
    assert mean_ranks(of(values, 1.0)) == {"b": (1, 1, 2), "a": (2, 1, 2)}
    empty = table({key: {**pair, OWN: NOT_THERE} for key, pair in standard().items()})
    (nothing,) = mean_ranks({"a": empty}).values()
    assert np.isnan(nothing).all()


@pytest.mark.parametrize("limit", [None, 2.0])
def test_the_pass_is_the_loop(limit: float | None) -> None:
    source, backbone = TinyImages(11, broken=[2], on_error="skip", n_held_out=11), TinyBackbone()
    arms = [Contender(OWN, tiny_sae(limit), backbone, False, "x")]
    found, read = patch_pass(
        arms, source, source.items, RUN, spatial=True, seed=0, description="test"
    )
    assert len(read) == 10 and len(source.n_skipped) == 1
    pixels = torch.stack([backbone.transform(source.load(item)) for item in read])
    acts = backbone.tap(pixels, [1, 2])
    x, sae = acts[1][:, 1:], arms[0].sae
    keep = sae.is_normal(x)
    assert keep.all() if limit is None else 0 < keep.float().mean() < 1
    z, x_hat = sae.encode(x) * keep[..., None], sae.reconstruct(x)
    own = found.arms[OWN]
    assert own.codes_ns == pytest.approx(z.amax(1).numpy(), abs=1e-6)
    assert found.label_n is not None and found.label_n.tolist() == [item.label for item in read]
    assert found.embedding_ne == pytest.approx(acts[2][:, 1:].mean(1).numpy(), abs=1e-6)
    mean = x[keep].double().mean(0)
    std = (x[keep].double() - mean).square().mean().sqrt()
    units = found.units
    assert units.mean_d == pytest.approx(mean.numpy()) and units.deviation == pytest.approx(
        float(std)
    )
    # in the benchmark's units, by its own function; a token left out counts as the mean
    normal_x = torch.where(keep[..., None], (x - mean) / std, 0.0)
    normal_hat = torch.where(keep[..., None], (x_hat - mean) / std, 0.0)
    direct = fvu(normal_x, normal_hat)
    assert found.unexplained(OWN, units).sums_n4 == pytest.approx(direct.sums_n4, abs=1e-4)
    assert found.unexplained(OWN, units).value == pytest.approx(direct.value, abs=1e-5)
    pooled = normal_hat.sum(1) / keep.sum(1, keepdim=True).clamp(min=1)
    assert found.pooled(units, OWN) == pytest.approx(pooled.numpy(), abs=1e-4)
    assert own.patches is not None and own.patches.value_ns.shape == (10, 12)
    assert found.unexplained(OWN, units, shuffled=True).value > found.unexplained(OWN, units).value


def test_the_others_are_as_sparse_and_the_shaped_one_lies_where_data_varies() -> None:
    sae = tiny_sae()
    arms = benchmark_arms(sae, TinyBackbone(), TinyImages(30), 26, seed=0)
    assert [one.name for one in arms] == ["sae", "untrained", "covariance", "raw", "pca"]
    assert [one.name for one in arms if one.is_random] == ["untrained", "covariance"]
    x = torch.randn(400, WIDTH, generator=torch.Generator().manual_seed(1))
    for one in arms:
        assert ((one.sae.encode(x) > 0).sum(-1) <= 3).all(), one.name
    shaped = arms[2].sae
    assert shaped.W_dec.norm(dim=1).allclose(torch.ones(12))
    again = benchmark_arms(sae, TinyBackbone(), TinyImages(30), 26, seed=0)[2].sae
    assert again.W_dec.equal(shaped.W_dec)


def test_another_backbone_judges() -> None:
    source, judge = TinyImages(5, n_held_out=5), TinyBackbone("cd" * 32)
    found = embedding_by(judge, source, source.items, RUN)
    pixels = torch.stack([judge.transform(source.load(item)) for item in source.items])
    assert found == pytest.approx(judge.tap(pixels, [2])[2][:, 1:].mean(1).numpy(), abs=1e-6)


@pytest.mark.parametrize(("most", "expected"), [(None, [0, 1, 2, 3, 4, 5]), (3, [0, 2, 4]), (9, 6)])
def test_images_are_spread_out(most: int | None, expected: Sequence[int] | int) -> None:
    items = [ImageItem(str(i), "val", i, None) for i in range(6)]
    found = [item.label for item in spread_out(items, most)]
    assert found == (list(range(6)) if isinstance(expected, int) else expected)
    assert whole_labels([*items, ImageItem("x", "val", None, None)]) is None


def test_draws_that_lie_to_one_side_are_moved() -> None:
    found = standard()["transfer"][OWN]
    assert np.median(found.cell.drawn_r) == pytest.approx(found.cell.value)
    assert isinstance(found.cell, Cell) and len(found.cell.drawn_r) == 60


def test_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    for changes, words in (
        ({"ks": []}, r"visaebench\.ks"),
        ({"n_bootstrap": 10}, "n_bootstrap must be at least 40"),
        ({"siblings": "nowhere"}, "class<TAB>parent"),
    ):
        with pytest.raises(ValueError, match=words):
            settings(**changes)
    file = tmp_path / "siblings.tsv"
    file.write_text("cat\tpet\ndog\tpet\n")
    assert settings(siblings=str(file)).groups(["cat", "dog"]) == {"pet": [0, 1]}
    with pytest.raises(ValueError, match=r"visaebench\.siblings=.*Line 2"):
        settings(siblings=str(file)).groups(["cat"])
    assert settings().groups(["cat"]) is None
