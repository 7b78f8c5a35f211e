"""Equal to what ViSAEBench 0.1.0 itself says of small inputs: visaebench_maker.py wrote both files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from saev.metrics.visaebench.absorption import absorption
from saev.metrics.visaebench.absorption_pairs import AbsorptionLimits
from saev.metrics.visaebench.fvu import fvu
from saev.metrics.visaebench.morans_i import morans_i
from saev.metrics.visaebench.morans_score import morans_score
from saev.metrics.visaebench.probe_ratio import probe_ratio
from saev.metrics.visaebench.sparse_probing_curve import sparse_probing_curve
from saev.metrics.visaebench.top_image_similarity import top_image_similarity
from saev.metrics.visaebench.transfer_score import transfer_score

DATA = Path(__file__).parent / "data"
SIDE, ACTIVE = 5, 6
SMALL = {"max_images": 30, "block": 16, "min_images": 20, "max_latents": 7}
GROUPS = {
    "ab": [0, 1, 2],
    "bc": [1, 2, 3, 4],
    "all": [0, 1, 2, 3, 4, 5],
    "pair": [4, 5],
    "none": [7, 8, 9],
}
EXPECTED = json.loads((DATA / "visaebench_expected.json").read_text())
INPUTS = np.load(DATA / "visaebench_inputs.npz")
MEAN, STD = torch.tensor(EXPECTED["mean"]), EXPECTED["std"]
LABEL = INPUTS["label"]
GAPPED = np.where(LABEL == 5, 9, LABEL)


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


class Pass:
    """Activations through the dictionary: x normalised, its codes and its reconstruction."""

    def __init__(self, name: str, mean: torch.Tensor | float = 0.0, std: float = 1.0) -> None:
        encoder, bias, decoder, decoder_bias = (
            torch.from_numpy(INPUTS[key]).float()
            for key in ("encoder", "encoder_bias", "decoder", "decoder_bias")
        )
        self.x = (torch.from_numpy(INPUTS[name]).float() - mean) / std
        before = (self.x @ encoder.T + bias).relu()
        largest, latents = before.topk(ACTIVE, dim=-1)
        self.codes = torch.zeros_like(before).scatter_(-1, latents, largest)
        self.x_hat = self.codes @ decoder + decoder_bias
        self.image_codes = self.codes.amax(1).numpy()


@pytest.fixture(scope="module")
def scaled() -> Pass:
    return Pass("x", MEAN, STD)


@pytest.mark.parametrize(
    ("name", "options"),
    [("m1", {}), ("m1_capped", SMALL | {"shard": None}), ("m1_shards", SMALL | {"shard": 40})],
)
def test_morans_i(scaled: Pass, name: str, options: dict[str, Any]) -> None:
    maps = scaled.codes.unflatten(1, (SIDE, SIDE)).movedim(-1, 1)
    found = morans_score(morans_i(maps), SIDE**2, **options)
    expected = EXPECTED[name]
    close(found.value, expected["value"])
    close(found.per_latent_s, np.array(expected["per_feature_scores"], float))
    close(found.not_localized, expected["frac_non_localized"])
    assert found.scored_k.tolist() == expected["scored_feature_indices"]


def test_the_three_orders_of_morans_i_differ() -> None:
    values = [EXPECTED[name]["value"] for name in ("m1", "m1_capped", "m1_shards")]
    assert min(abs(values[0] - values[1]), abs(values[1] - values[2])) > 1e-3


def test_fvu(scaled: Pass) -> None:
    close(fvu(scaled.x, scaled.x_hat).value, EXPECTED["m2"]["value"])
    raw = Pass("x")
    close(fvu(raw.x, raw.x_hat).value, EXPECTED["m2_raw"]["value"])


@pytest.mark.parametrize(
    ("name", "label", "options"),
    [("m3", LABEL, {}), ("m3_gapped", GAPPED, {"test_share": 0.4, "c": 0.1, "seed": 3})],
)
def test_probe_ratio(scaled: Pass, name: str, label: np.ndarray, options: dict[str, Any]) -> None:
    found = probe_ratio(scaled.x.mean(1).numpy(), scaled.x_hat.mean(1).numpy(), label, **options)
    expected = EXPECTED[name]
    close(found.value, expected["value"])
    close(found.accuracies, [expected["accuracy_original"], expected["accuracy_reconstructed"]])


@pytest.mark.parametrize(
    ("name", "label", "options"),
    [("m4", LABEL, {}), ("m4_few", GAPPED, {"ks": [1, 2, 3, 8], "test_share": 0.3, "seed": 5})],
)
def test_sparse_probing(
    scaled: Pass, name: str, label: np.ndarray, options: dict[str, Any]
) -> None:
    found = sparse_probing_curve(scaled.image_codes, label, **options)
    close(found.value, EXPECTED[name]["value"])
    accuracies = {str(k): share for k, share in zip(found.ks, found.accuracy_k, strict=True)}
    assert accuracies == pytest.approx(EXPECTED[name]["k_accuracies"], abs=1e-4)


@pytest.mark.parametrize(
    ("name", "options"), [("m5", {}), ("m5_few", {"top_images": 5, "max_latents": 9, "seed": 11})]
)
def test_top_image_similarity(scaled: Pass, name: str, options: dict[str, int]) -> None:
    found = top_image_similarity(scaled.image_codes, INPUTS["embedding"], **options)
    close(found.value, EXPECTED[name]["value"])
    close(found.per_latent_k, EXPECTED[name]["ms_distribution"])


@pytest.mark.parametrize(
    ("name", "own", "mean", "std", "options"),
    [("m6", 60, MEAN, STD, {}), ("m6_few", 3, MEAN + 1, 2 * STD, {"k": 2, "seed": 1})],
)
def test_transfer(
    name: str, own: int, mean: torch.Tensor, std: float, options: dict[str, int]
) -> None:
    own_fires = np.any(Pass("x", mean, std).image_codes[:own] > 0, axis=0)
    other = Pass("other_x", mean, std)
    unexplained = fvu(other.x, other.x_hat)
    found = transfer_score(
        own_fires, other.image_codes, unexplained, INPUTS["other_label"], **options
    )
    expected = EXPECTED[name]["per_dataset"]["other"]
    close(found.value, EXPECTED[name]["value"])
    probe = expected[f"probe_accuracy_k{options.get('k', 10)}"]
    names = ("reconstruction_quality", "domain_coverage", "jaccard_overlap")
    close(found.parts, [*(expected[part] for part in names), probe])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("m7", {}),
        (
            "m7_tight",
            {"min_group": 2, "limits": AbsorptionLimits(5, gap=0.02, k_primary=2, k_expanded=3)},
        ),
    ],
)
def test_absorption(scaled: Pass, name: str, options: dict[str, Any]) -> None:
    found = absorption(scaled.image_codes, LABEL, GROUPS, **options)
    expected = EXPECTED[name]
    close(found.value, expected["value"])
    pairs = expected["per_pair_results"]
    assert [(one.group, one.class_index, one.absorbed) for one in found.siblings] == [
        (pair["group"], pair["class_idx"], pair["absorbed"]) for pair in pairs
    ]
    close(
        [[one.overlap, one.f1_primary, one.f1_expanded] for one in found.siblings],
        [[pair["overlap"], pair["f1_k1"], pair["f1_k4"]] for pair in pairs],
    )
