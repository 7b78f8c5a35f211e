"""Ours in the files of others: the same codes and reconstructions, whatever was folded."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from saev.interop import convert_sae, open_sae
from saev.sae import SAEConfig, SparseAutoencoder

D, S = 10, 24
KINDS = [("relu", None), ("topk", 5), ("batch_topk", 4.5), ("jump_relu", None), ("gated", None)]


def random_sae(activation: str, k: int | float | None, subtract: bool) -> SparseAutoencoder:
    cfg = SAEConfig(
        D, S, activation, k, subtract, max_norm=40.0, layer=3, tokens={"which": "patch"}
    )
    generator = torch.Generator().manual_seed(0)
    sae = SparseAutoencoder(cfg, generator).requires_grad_(False).eval()
    for tensor in sae.state_dict().values():
        tensor.add_(0.5 * torch.randn(tensor.shape, generator=generator))
    sae.set_statistics(3 + torch.randn(D, generator=generator), 0.37, 40.0)
    return sae


@pytest.mark.parametrize("to", ["saelens", "dictionary_learning"])
@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize(("activation", "k"), KINDS)
def test_codes_and_reconstructions_survive(
    activation: str, k: int | float | None, subtract: bool, to: str, tmp_path: Path
) -> None:
    sae = random_sae(activation, k, subtract)
    found = convert_sae(sae, tmp_path / "out", to=to)
    assert any("max_norm=40" in line for line in found.said)
    back = open_sae(tmp_path / "out")
    x = 3 + 2 * torch.randn(200, D, generator=torch.Generator().manual_seed(1))
    z, z_back = sae.encode(x), back.encode(x)
    assert ((z > 0) != (z_back > 0)).float().mean() < 1e-3
    torch.testing.assert_close(z_back, z, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(back.decode(z), sae.decode(z), rtol=1e-4, atol=1e-4)
    assert (back.cfg.layer, back.cfg.tokens, back.cfg.max_norm) == (3, {"which": "patch"}, 40.0)


def test_a_normaliser_of_each_token_goes_to_saelens(tmp_path: Path) -> None:
    sae = random_sae("topk", 5, True)
    sae.cfg = replace(sae.cfg, token_norm="layer_norm")
    convert_sae(sae, tmp_path / "out", to="saelens")
    back = open_sae(tmp_path / "out")
    x = 3 + 2 * torch.randn(50, D, generator=torch.Generator().manual_seed(1))
    assert back.cfg.token_norm == "layer_norm"
    torch.testing.assert_close(back.reconstruct(x), sae.reconstruct(x), rtol=1e-3, atol=1e-3)
