"""Writes data/visaebench_{inputs.npz,expected.json}: what ViSAEBench itself says of small inputs.

Run in an environment of its own that has `visaebench==0.1.0` and what it imports (its backbones import
transformers and timm; no weights are loaded), from this folder:

    python visaebench_maker.py
"""

import json
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from visaebench.hub import GenericSAE  # pyright: ignore[reportMissingImports]
from visaebench.metrics import (  # pyright: ignore[reportMissingImports]
    FVU,
    CrossDomainGeneralization,
    DownstreamPreservation,
    FeatureAbsorption,
    FeatureLocalization,
    MonosemanticityScore,
    SparseProbing,
)

DATA = Path(__file__).parent / "data"
N_IMAGES, N_OTHER, SIDE, WIDTH, LATENTS, CLASSES, ACTIVE = 132, 90, 5, 8, 40, 6, 6
GROUPS = {
    "ab": [0, 1, 2],
    "bc": [1, 2, 3, 4],
    "all": [0, 1, 2, 3, 4, 5],
    "pair": [4, 5],
    "none": [7, 8, 9],
}
CPU = {"device": "cpu"}


def acts(rng: np.random.Generator, n: int, offset: float) -> tuple[np.ndarray, np.ndarray]:
    """Patches of which a square block holds the direction of the class; halves, to be stored short."""
    label_n = rng.permutation(np.arange(n) % CLASSES)
    direction_cd = rng.normal(size=(CLASSES, WIDTH)) * 1.5
    x = rng.normal(size=(n, SIDE, SIDE, WIDTH)) + offset
    for image, label in enumerate(label_n):
        row, column = rng.integers(0, SIDE - 2, 2)
        x[image, row : row + 3, column : column + 3] += direction_cd[label]
    return x.reshape(n, SIDE**2, WIDTH).astype(np.float16), label_n


def inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    x, label = acts(rng, N_IMAGES, 0.3)
    other_x, other_label = acts(rng, N_OTHER, 0.5)
    encoder = rng.normal(size=(LATENTS, WIDTH)).astype(np.float16)
    encoder[-4:] = 0  # never fire
    bias = np.where(encoder.any(1), -0.3, 0.0).astype(np.float16)
    bias[20:30] = np.linspace(-9, -5, 10)  # fire on few images
    embedding = rng.normal(size=(CLASSES, 12))[label] + rng.normal(size=(N_IMAGES, 12)) * 0.7
    return {
        "x": x,
        "label": label,
        "other_x": other_x,
        "other_label": other_label,
        "encoder": encoder,
        "encoder_bias": bias,
        "decoder": (encoder / 12).astype(np.float16),
        "decoder_bias": (rng.normal(size=WIDTH) / 10).astype(np.float16),
        "embedding": embedding.astype(np.float16),
    }


class Embedder:
    """A backbone whose images are positions and whose patches are the stored embedding."""

    def __init__(self, embedding: np.ndarray) -> None:
        self.embedding = torch.from_numpy(embedding).float()

    def extract_activations(self, images: list[int], *, layer: int = -1) -> torch.Tensor:
        assert layer == 11
        return self.embedding[torch.as_tensor(images)][:, None].expand(-1, 3, -1)


def said(result: Any) -> dict[str, Any]:
    return {"value": result.value, **result.metadata}


def main() -> None:
    given = inputs()
    x = torch.from_numpy(given["x"])
    sae = GenericSAE(
        {"activation": "topk", "k": ACTIVE},
        {
            "encoder.weight": torch.from_numpy(given["encoder"]).float(),
            "encoder.bias": torch.from_numpy(given["encoder_bias"]).float(),
            "decoder.weight": torch.from_numpy(given["decoder"]).float(),
            "decoder.bias": torch.from_numpy(given["decoder_bias"]).float(),
        },
    )
    flat = x.float().flatten(0, 1)
    mean, std = flat.mean(0), float((flat - flat.mean(0)).square().mean().sqrt())
    scaled = {"mean": mean, "std": std, **CPU}
    label = given["label"]
    gapped = np.where(label == 5, 9, label)
    other = {
        "other": {"activations": torch.from_numpy(given["other_x"]), "labels": given["other_label"]}
    }
    groups = {name: {"class_indices": classes} for name, classes in GROUPS.items()}
    grid = (SIDE, SIDE)
    small = {"max_images_per_feature": 30, "image_batch_size": 16, "min_images_per_feature": 20}
    capped = FeatureLocalization(grid, max_features=7, **small)
    other_scale = {"mean": mean + 1, "std": 2 * std, **CPU}

    def of(metric: Any, **more: Any) -> dict[str, Any]:
        return said(metric.compute(sae, x, **{**scaled, **more}))

    def of_other(metric: Any, n_own: int, **more: Any) -> dict[str, Any]:
        return said(metric.compute(sae, x[:n_own], ood_datasets=other, **more))

    expected = {
        "versions": {name: version(name) for name in ("visaebench", "scikit-learn", "numpy")},
        "mean": mean.tolist(),
        "std": std,
        "m1": of(FeatureLocalization(grid)),
        "m1_capped": of(capped),
        "m3": of(DownstreamPreservation(), labels=label),
        "m3_gapped": of(DownstreamPreservation(test_size=0.4, C=0.1), labels=gapped, seed=3),
        "m4": of(SparseProbing(), labels=label),
        "m4_few": of(SparseProbing([1, 2, 3, 8], test_size=0.3), labels=gapped, seed=5),
        "m6": of_other(CrossDomainGeneralization(), 60, **scaled),
        "m6_few": of_other(CrossDomainGeneralization(k_probe=2), 3, seed=1, **other_scale),
        "m7": of(FeatureAbsorption(), labels=label, sibling_groups=groups),
        "m7_tight": of(FeatureAbsorption(2, 5, 0.02, 2, 3), labels=label, sibling_groups=groups),
    }
    see = {"images": list(range(N_IMAGES)), "evaluator_backbone": Embedder(given["embedding"])}
    expected["m5"] = of(MonosemanticityScore(), **see)
    expected["m5_few"] = of(MonosemanticityScore(5, 9), seed=11, **see)
    with (
        tempfile.TemporaryDirectory() as folder
    ):  # its tensors are counted by image, its shards by token
        paths = [Path(folder) / f"{part}.pt" for part in range(4)]
        for path, part in zip(paths, x.split(40), strict=True):
            torch.save(part.clone(), path)
        expected["m2"] = said(FVU().compute(sae, paths, **scaled))
        expected["m2_raw"] = said(FVU().compute(sae, paths, **CPU))
        expected["m1_shards"] = said(capped.compute(sae, paths, **scaled))
    for name in ("m1", "m1_capped", "m1_shards"):
        expected[name].pop("config")
        expected[name].pop("distribution")
    np.savez_compressed(DATA / "visaebench_inputs.npz", **given)  # pyright: ignore[reportArgumentType]
    (DATA / "visaebench_expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with torch.no_grad():
        main()
