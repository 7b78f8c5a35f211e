"""Baselines are ordinary dictionaries: sparse as asked, saved and read, and each what its name says."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from saev.metrics import ReconstructionMetrics
from saev.sae import SAEConfig, SparseAutoencoder
from saev.sae.baselines import KINDS, OVERCOMPLETE, Baseline, fit_baseline
from saev.sae.initialize import best_gain

CONF = Path(__file__).parents[2] / "conf" / "model"
WIDTH = 12


@pytest.fixture(scope="module")
def pool() -> Tensor:
    """Activations on a few directions that are not axes, with a long mean; a tenth are artefacts."""
    generator = torch.Generator().manual_seed(0)
    sources = torch.randn(1500, 4, generator=generator).sign() * torch.rand(
        1500, 4, generator=generator
    )
    x = sources @ torch.randn(4, WIDTH, generator=generator) + 5
    x += 0.05 * torch.randn(x.shape, generator=generator)
    x[::10] *= 100
    return x


@pytest.fixture(scope="module")
def like(pool: Tensor) -> SparseAutoencoder:
    cfg = SAEConfig(d_model=WIDTH, d_sae=48, activation="topk", k=3, layer=7)
    sae = SparseAutoencoder(cfg, torch.Generator().manual_seed(1)).requires_grad_(False)
    normal = pool[pool.norm(dim=1) < 100]
    sae.set_statistics(normal.mean(0), 0.5, 100.0)
    return sae


def explained(sae: SparseAutoencoder, x: Tensor) -> float:
    x = x[sae.is_normal(x)]
    z = sae.encode(x)
    metrics = ReconstructionMetrics(WIDTH, sae.cfg.d_sae)
    metrics.update(x, sae.decode(z), z)
    return float(metrics.compute()["explained_variance"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_baseline_is_an_ordinary_dictionary(
    kind: str, like: SparseAutoencoder, pool: Tensor, tmp_path: Path
) -> None:
    sae = fit_baseline(kind, like, pool)
    assert sae.cfg.recipe == {"baseline": kind}
    assert (sae.cfg.layer, sae.cfg.max_norm, float(sae.scale)) == (7, 100.0, 0.5)
    again = SparseAutoencoder.from_pretrained(sae.save_pretrained(tmp_path))
    z = sae.encode(pool)
    assert torch.equal(again.encode(pool), z)
    assert int((z > 0).sum(1).max()) <= (1 if kind == "kmeans" else 3)
    assert torch.isfinite(sae.decode(z)).all()
    assert torch.equal(fit_baseline(kind, like, pool).encode(pool), z)  # one seed, one result


def test_what_fits_the_data_explains_more_than_what_is_drawn(
    like: SparseAutoencoder, pool: Tensor
) -> None:
    found = {kind: explained(fit_baseline(kind, like, pool), pool) for kind in KINDS}
    assert found["pca"] > found["random"] + 0.1
    assert found["ica"] > found["random"] + 0.1
    assert found["kmeans"] > found["untrained"] + 0.1
    assert found["semi_nmf"] > found["untrained"] + 0.1
    assert found["untrained"] > 0


def test_no_other_length_of_codes_explains_more(like: SparseAutoencoder, pool: Tensor) -> None:
    for kind in KINDS:
        best = fit_baseline(kind, like, pool)
        normal = pool[best.is_normal(pool)]
        assert best_gain(best, normal) == pytest.approx(1, abs=0.02)


def test_dense_readings_keep_every_positive_code(like: SparseAutoencoder, pool: Tensor) -> None:
    for kind in ("raw", "pca", "random"):
        sae = fit_baseline(kind, like, pool, dense=True)
        normal = pool[sae.is_normal(pool)]
        codes = sae.encode(normal)
        assert (codes > 0).sum(1).float().mean() == pytest.approx(WIDTH, rel=0.01)
        # both signs together are a rotation, so nothing is lost
        assert sae.decode(codes) == pytest.approx(normal, abs=1e-3)


def test_without_another_dictionary_to_be_like(pool: Tensor) -> None:
    baseline = Baseline("pca", WIDTH, k=3)
    mean = pool[1:10].mean(0)
    sae = baseline.fit(pool, mean, 0.5, 100.0, layer=2, manifest_id="m")
    assert (sae.cfg.d_sae, sae.cfg.k, sae.cfg.layer, sae.cfg.manifest_id) == (24, 3, 2, "m")
    sizes = {kind: Baseline(kind, WIDTH, None if kind == "kmeans" else 3, expansion=4)
             for kind in OVERCOMPLETE}  # fmt: skip
    assert {kind: one.shape.d_sae for kind, one in sizes.items()} == dict.fromkeys(sizes, 48)


@pytest.mark.parametrize("kind", KINDS)
def test_its_choice_of_model(kind: str) -> None:
    cfg = OmegaConf.merge(OmegaConf.load(CONF / f"{kind}.yaml"), {"seed": 0})
    assert instantiate(cfg, d_model=64).kind == kind


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"kind": "magic", "k": 3}, "kind must be one of raw"),
        ({"kind": "kmeans", "k": 3, "expansion": 2}, "k has no effect with kind=kmeans"),
        ({"kind": "pca", "k": 3, "expansion": 2}, "no effect with kind=pca"),
        ({"kind": "pca"}, "k must be given for kind=pca"),
        ({"kind": "untrained", "k": 3}, "expansion or d_sae must be given"),
        ({"kind": "pca", "k": 25}, "k must not exceed"),
    ],
)
def test_arguments_without_effect_or_out_of_range(arguments: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Baseline(d_model=WIDTH, **arguments)
    with pytest.raises(ValueError, match="baseline must be one of"):
        fit_baseline("magic", SparseAutoencoder(SAEConfig(2, 4, "topk", 1)), torch.zeros(1, 2))
