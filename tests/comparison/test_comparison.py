"""Planted partners, absences and drives are found; nothing is claimed where it cannot be."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from datamodules.images import ScenesImages
from saev.backbones import load_backbone
from saev.codes.images import ImageList
from saev.codes.store import CodeStore
from saev.comparison.drives import drive_metrics, drive_table, read_late
from saev.comparison.lacking import (
    ConceptReading,
    power_table,
    presence_metrics,
    presence_table,
    read_source,
)
from saev.comparison.matches import match_metrics, match_table
from saev.comparison.members import CompareSettings, Member, check_same_patches
from saev.concepts.best_latents import Concepts
from saev.defaults import defaults
from saev.errors import UserError
from saev.sae import SAEConfig, SparseAutoencoder
from tests.fakes.codes import build

N, P, S = 300, 4, 16
SPLITS = ["discovery"] * 120 + ["calibration"] * 40 + ["test"] * 140
NAMES = ["shared", "lacking", "weak", "noise"]


def settings(**changes: object) -> CompareSettings:
    return CompareSettings(**{**defaults("compare", "comparison"), "seed": 0, **changes})


SETTINGS = settings(n_permutations=399, n_map_permutations=49, n_bootstrap=100, n_draws=60)


def noise(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(N, P, S, generator=generator) - 0.8).relu()


def write(folder: Path, z: torch.Tensor) -> CodeStore:
    store = CodeStore.create(folder, [str(i) for i in range(len(z))], n_latents=z.shape[2],
                             n_tokens=z.shape[1], identity={}, images_per_part=100)  # fmt: skip
    for part in store.missing():
        span = store.images_of(part)
        store.write(part, build(z[span.start : span.stop]))
    return store


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return np.random.default_rng(0).random((N, len(NAMES))) < 0.2


@pytest.fixture(scope="module")
def readings(labels: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> list[ConceptReading]:
    """Both know "shared"; the first alone knows "lacking" well and "weak" badly."""
    rng = np.random.default_rng(1)
    first, second = noise(1), noise(2)
    for z, latent in ((first, 3), (second, 9)):
        z[..., latent] = 0
        z[torch.from_numpy(labels[:, 0]), 2, latent] = 2
    first[..., 5:7] = 0
    first[torch.from_numpy(labels[:, 1]), 1, 5] = 3
    sometimes = labels[:, 2] & (rng.random(N) < 0.45)
    first[torch.from_numpy(sometimes), 1, 6] = 3
    folder = tmp_path_factory.mktemp("codes")
    concepts = Concepts("toy", "class", NAMES, np.arange(N), SPLITS,
                        sparse.csr_matrix(labels.astype(float)))  # fmt: skip
    return [
        read_source(write(folder / str(i), z), concepts, SETTINGS)
        for i, z in enumerate((first, second))
    ]


def test_best_latents_are_the_planted_ones(readings: list[ConceptReading]) -> None:
    assert readings[0].best[:3].tolist() == [3, 5, 6]
    assert readings[1].best[0] == 9
    assert readings[0].has().tolist() == [True, True, True, False]
    assert readings[1].has().tolist() == [True, False, False, False]


def test_absence_is_told_from_ignorance(readings: list[ConceptReading]) -> None:
    table = presence_table(["one", "two"], [[reading] for reading in readings], SETTINGS)
    found = table.set_index("concept")
    assert found.loc["shared", "verdict"] == "both"
    assert found.loc["lacking", "verdict"] == "only_a"
    assert found.loc["lacking", "power"] == 1
    assert found.loc["weak", "verdict"] == "undecided", "its power is too small to claim absence"
    assert 0.1 < found.loc["weak", "power"] < 0.8
    assert found.loc["noise", "verdict"] == "neither"
    assert found.loc["lacking", "difference_low"] > 0.2
    assert (found["auroc_a_low"] <= found["auroc_a"]).all()
    assert (found["auroc_a"] <= found["auroc_a_high"]).all()
    turned = presence_table(["two", "one"], [[reading] for reading in readings[::-1]], SETTINGS)
    assert turned.set_index("concept").loc["lacking", "verdict"] == "only_b"
    assert presence_metrics(table)["compare/one-two/concepts_only_a"] == 1


def both_hold_all(folder: Path, shift: float, seed: int) -> list[ConceptReading]:
    """Two dictionaries of 300 latents; the first twenty rise by ``shift`` standard deviations where
    their concept is, on one in twenty images."""
    rng = np.random.default_rng(seed)
    labels = np.stack([rng.permutation(np.arange(200) < 10) for _ in range(40)]).reshape(20, 400).T
    concepts = Concepts("toy", "class", [f"c{k}" for k in range(20)], np.arange(400),
                        ["discovery"] * 180 + ["calibration"] * 20 + ["test"] * 200,
                        sparse.csr_matrix(labels.astype(float)))  # fmt: skip
    found = []
    for name in "ab":
        value = rng.standard_normal((400, 300))
        value[:, :20] += shift * labels
        z = torch.from_numpy(np.exp(value)).float()[:, None]
        found.append(read_source(write(folder / name, z), concepts, settings(n_bootstrap=200)))
    return found


def verdicts(readings: list[ConceptReading]) -> list[str]:
    table = presence_table(["a", "b"], [[one] for one in readings], readings[0].settings)
    return table["verdict"].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("shift", [1.0, 1.4])
def test_what_both_hold_is_not_called_absent(tmp_path: Path, shift: float) -> None:
    """120 concepts that both hold, too weakly to be seen on so few images."""
    worlds = [verdicts(both_hold_all(tmp_path / str(i), shift, i)) for i in range(6)]
    found = [verdict for world in worlds for verdict in world]
    assert found.count("undecided") >= 20, "the case that is meant"
    assert found.count("neither") <= 6
    assert found.count("only_a") + found.count("only_b") <= 6


def test_power_curve_rises_with_positive_images(readings: list[ConceptReading]) -> None:
    power = power_table(["one", "two"], [[reading] for reading in readings])
    of_one = power[power["sae"] == "one"]
    assert of_one["found"].iloc[-1] > of_one["found"].iloc[0], "the weak one needs many"
    assert of_one["n_concepts"].max() == 3
    two = power[power["sae"] == "two"].set_index("n_positive")
    assert two.loc[13, "found"] == 1, "the one concept it knows is told without error"
    assert of_one["found"].iloc[0] < 0.75


def test_masks_are_read_on_patches_and_resampled_by_image(tmp_path: Path) -> None:
    z = noise(3)
    covered = torch.rand(N, P, generator=torch.Generator().manual_seed(0)) < 0.3
    z[..., 4] = covered.float()
    concepts = Concepts("toy", "mask", ["sky"], np.arange(N), SPLITS,
                        sparse.csr_matrix(covered.reshape(-1, 1).numpy().astype(float)),
                        np.ones(N * P, bool))  # fmt: skip
    reading = read_source(write(tmp_path, z), concepts, SETTINGS)
    assert reading.best.tolist() == [4] and reading.auroc[0] == 1
    value, label, image = reading.column("test", 0)
    assert len(value) == 140 * P and image.max() == 139
    np.testing.assert_array_equal(value > 0, label)
    assert power_table(["one"], [[reading]]).empty, "the curve is for concepts told per image"


def dictionary(layer: int, atoms: torch.Tensor, bias: float = 0.0) -> SparseAutoencoder:
    backbone = {"family": "timm", "name": "micro"}
    cfg = SAEConfig(d_model=atoms.shape[1], d_sae=len(atoms), activation="relu", layer=layer,
                    backbone=backbone, tokens={"which": "patch"})  # fmt: skip
    sae = SparseAutoencoder(cfg, torch.Generator().manual_seed(0)).eval().requires_grad_(False)
    sae.W_enc.copy_(atoms)
    sae.W_dec.copy_(atoms)
    sae.b_enc.fill_(bias)
    return sae


@pytest.fixture(scope="module")
def two_layers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Member, Member, ImageList, list]:
    """The later dictionary holds the earlier one's atoms in another order, always on: what is added
    to the residual stream arrives there."""
    backbone = load_backbone("timm", "micro", "embedded", layer=3)
    generator = torch.Generator().manual_seed(0)
    atoms = torch.nn.functional.normalize(
        torch.randn(S, backbone.width, generator=generator), dim=1
    )
    order = torch.randperm(S, generator=generator).tolist()
    images = ImageList.of({"scenes": ScenesImages(n_images=24)}, None)
    folder = tmp_path_factory.mktemp("layers")
    shown = torch.rand(24, 1, S, generator=generator) < 0.4
    z = torch.rand(24, 144, S, generator=generator) * 6 * shown
    members = [
        Member(name, sae, backbone, write(folder / name, z[..., places]))
        for name, sae, places in (
            ("early", dictionary(3, atoms), list(range(S))),
            ("late", dictionary(4, atoms[order], bias=1e3), order),
        )
    ]
    return members[0], members[1], images, order


def test_drives_are_found_where_they_were_planted(two_layers) -> None:
    early, late, images, order = two_layers
    few = settings(n_draws=5, n_drives=6, drive_images=2, drive_strength=4.0)
    matches = match_table([late, early], images, few)
    forward = matches[matches["sae_a"] == "early"]
    assert [order[k] for k in forward["latent_b"]] == list(range(S))
    assert match_metrics(matches, 0.05)["compare/early-late/agree"] == 1
    drives = drive_table([late, early], matches, images, few)
    matched = drives[drives["matched"]]
    assert len(matched) == 6
    assert (matched["rank"] == 0).mean() >= 0.8
    assert (matched["drive"] > matched["drive_random"]).mean() >= 0.8
    assert (matched["drive"] > matched["drive_others"]).mean() >= 0.8
    assert matched["coactivation"].to_numpy() == pytest.approx(np.ones(6))
    assert (matched["rank_others"] > 1).all()
    found = drive_metrics(drives)
    assert found["compare/early-late/drive_match_first"] == (matched["rank"] == 0).mean()
    wrong = matches.assign(latent_b=np.roll(matches["latent_b"], 1))
    mispaired = drive_table([early, late], wrong, images, few)
    assert (mispaired[mispaired["matched"]]["rank"] == 0).mean() < 0.4


def test_steering_is_an_edit_of_the_running_model(two_layers) -> None:
    early, late, images, _ = two_layers
    backbone = early.backbone
    source = images.sources["scenes"]
    pixels = backbone.transform(source.load(images.entries[0][1]))[None]
    shift = torch.randn(1, backbone.width, generator=torch.Generator().manual_seed(3))
    acts = backbone.tap(pixels, [3])[3].clone()
    acts[:, 1:] += shift
    seen = []
    backbone(pixels, {3: lambda _: acts, 4: lambda x: seen.append(x[:, 1:]) or x})
    expected = late.sae.encode(seen[0].float()).mean((0, 1))
    torch.testing.assert_close(read_late(early, late, pixels, shift)[0], expected)


def test_one_layer_or_two_models_have_no_drives(two_layers) -> None:
    early, late, images, _ = two_layers
    other = load_backbone("timm", "micro", "random", layer=4)
    stranger = Member("stranger", late.sae, other, late.store)
    matches = pd.DataFrame(
        {"sae_a": [], "sae_b": [], "latent_a": [], "latent_b": [], "correlation": []}
    )
    assert drive_table([early, early], matches, images, SETTINGS).empty
    assert not early.same_model(stranger) and early.same_model(late)
    assert drive_table([early, stranger], matches, images, SETTINGS).empty


def test_patches_need_the_same_grid(two_layers) -> None:
    early, late, *_ = two_layers
    check_same_patches({m.name: (m.sae, m.backbone) for m in (early, late)})
    whole = dictionary(3, early.sae.W_enc.clone())
    object.__setattr__(whole.cfg, "tokens", {"which": "class"})
    with pytest.raises(UserError, match="rows=patch needs dictionaries that see the same patches"):
        check_same_patches({"a": (early.sae, early.backbone), "b": (whole, early.backbone)})


def test_unknown_rows_are_refused() -> None:
    with pytest.raises(UserError, match="rows='word'; choose image or patch"):
        settings(rows="word")
