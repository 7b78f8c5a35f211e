"""Atoms of other seeds, beside nulls that know how the activations lie."""

from pathlib import Path

import numpy as np
import pytest
import torch

from saev.atlas.stability import NULLS, stability
from saev.errors import UserError
from saev.metrics.geometry import matched_cosine
from saev.sae import SAEConfig, SparseAutoencoder


def dictionary(seed: int, d_sae: int = 24) -> SparseAutoencoder:
    cfg = SAEConfig(d_model=16, d_sae=d_sae, activation="topk", k=3)
    return SparseAutoencoder(cfg, torch.Generator().manual_seed(seed))


def tokens(n: int, spread: float, seed: int = 0) -> torch.Tensor:
    """Activations whose standard deviations fall by this factor from dimension to dimension."""
    generator = torch.Generator().manual_seed(seed)
    return 5 + torch.randn(n, 16, generator=generator) * spread ** torch.arange(16)


def test_atoms_that_come_back_are_stable(tmp_path: Path) -> None:
    sae, other = dictionary(0), dictionary(1)
    with torch.no_grad():
        other.W_dec[:12] = sae.W_dec[12:]
    each, table, metrics = stability(
        sae, [str(other.save_pretrained(tmp_path / "a"))], tokens(96, 1)
    )
    np.testing.assert_allclose(each[12:], 1, atol=1e-5)
    assert each[:12].max() < 0.99
    rows = table.set_index("dictionary")
    assert rows["mean"].iloc[0] == pytest.approx(metrics["latents/stability"])
    back = (each > 0.9).mean()
    assert rows["above_0.9"].iloc[0] == pytest.approx(back) and back >= 0.5
    for kind in NULLS:
        assert rows.loc[kind, "is_null"]
        assert rows.loc[kind, "mean"] == pytest.approx(metrics[f"latents/stability_null/{kind}"])
        assert metrics["latents/stability"] > metrics[f"latents/stability_null/{kind}"] + 0.1
    small = SparseAutoencoder(SAEConfig(d_model=16, d_sae=8, activation="topk", k=3))
    with pytest.raises(UserError, match="atoms of shape"):
        stability(sae, [str(small.save_pretrained(tmp_path / "small"))], tokens(96, 1))


def test_narrow_activations_alone_do_not_make_a_dictionary_stable(tmp_path: Path) -> None:
    """Two dictionaries of random directions of a narrow cloud: far above the sphere's null, and no
    further above that of the cloud than two draws of it differ."""
    sae, other = dictionary(0, 150), dictionary(1, 150)
    cloud = tokens(600, 0.7)
    with torch.no_grad():
        for one, seed in ((sae, 10), (other, 11)):
            drawn = tokens(150, 0.7, seed) - 5
            one.W_dec.copy_(torch.nn.functional.normalize(drawn, dim=-1))
    _, _, metrics = stability(sae, [str(other.save_pretrained(tmp_path / "b"))], cloud)
    chance = {kind: metrics[f"latents/stability_null/{kind}"] for kind in NULLS}
    assert metrics["latents/stability"] > chance["isotropic"] + 0.15
    assert metrics["latents/stability"] == pytest.approx(chance["covariance"], abs=0.03)
    assert metrics["latents/stability"] == pytest.approx(chance["tokens"], abs=0.03)
    drawn, _ = matched_cosine(sae.W_dec.detach(), other.W_dec.detach())
    assert metrics["latents/stability"] == pytest.approx(float(drawn.mean()))


def test_too_few_activations_give_no_null_of_activations(tmp_path: Path) -> None:
    folder = str(dictionary(1).save_pretrained(tmp_path / "c"))
    _, table, metrics = stability(dictionary(0), [folder], tokens(40, 1))
    assert np.isnan(metrics["latents/stability_null/tokens"])
    assert np.isfinite(metrics["latents/stability_null/covariance"])
    assert table.set_index("dictionary").loc["tokens", ["above_0.5", "above_0.9"]].isna().all()
