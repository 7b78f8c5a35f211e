"""Dictionaries that normalise each token, keep negative codes or have a linear path."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saev.sae import SAEConfig, SparseAutoencoder
from saev.sae.activations import group_max, signed_top_k

D, S = 6, 16


def random_sae(token_norm: str, activation: str = "topk", skip: bool = False) -> SparseAutoencoder:
    cfg = SAEConfig(D, S, activation, 4, token_norm=token_norm, skip=skip)
    generator = torch.Generator().manual_seed(0)
    sae = SparseAutoencoder(cfg, generator).requires_grad_(False)
    for name, tensor in sae.state_dict().items():
        if name != "scale":
            tensor.add_(torch.randn(tensor.shape, generator=generator))
    sae.scale.fill_(0.7)
    return sae


def tokens(n: int = 20) -> torch.Tensor:
    return 2 + 3 * torch.randn(n, D, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("token_norm", ["none", "layer_norm", "sqrt_d"])
def test_normalising_can_be_undone(token_norm: str) -> None:
    sae, x = random_sae(token_norm), tokens()
    torch.testing.assert_close(sae.denormalize(sae.normalize(x), x), x, rtol=1e-4, atol=1e-4)


def test_layer_norm_and_length_by_hand() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 9.0]])
    plain = SparseAutoencoder(SAEConfig(D, S, "relu", token_norm="layer_norm"))
    std = x.std(correction=1)
    torch.testing.assert_close(plain.normalize(x), (x - 4) / (std + 1e-5))
    plain = SparseAutoencoder(SAEConfig(D, S, "relu", token_norm="sqrt_d"))
    torch.testing.assert_close(plain.normalize(x), x * 6**0.5 / x.norm())


@pytest.mark.parametrize("token_norm", ["none", "layer_norm", "sqrt_d"])
@pytest.mark.parametrize("skip", [False, True])
def test_a_step_in_codes_is_the_same_step_in_raw_units(token_norm: str, skip: bool) -> None:
    """What edits add is what decoding other codes would have given."""
    sae, x = random_sae(token_norm, skip=skip), tokens()
    z = sae.encode(x)
    dz = torch.zeros_like(z)
    dz[:, 3] = 1.5
    step = sae.decode(z + dz, x) - sae.decode(z, x)
    torch.testing.assert_close(sae.step_to_raw(dz @ sae.W_dec, x), step, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("token_norm", "skip"), [("layer_norm", False), ("none", True)])
def test_decoding_asks_for_the_tokens_it_needs(token_norm: str, skip: bool) -> None:
    sae = random_sae(token_norm, skip=skip)
    with pytest.raises(ValueError, match="x, the tokens, must be given"):
        sae.decode(torch.zeros(1, S))


def test_the_path_beside_the_latents_by_hand() -> None:
    sae, x = random_sae("none", skip=True), tokens()
    z, x_bar = sae.encode(x), sae.normalize(x)
    by_hand = z @ sae.W_dec + sae.b_dec + x_bar @ sae.W_skip.T
    torch.testing.assert_close(sae.decode(z, x), by_hand / sae.scale + sae.mean)
    torch.testing.assert_close(sae.untrained(0, x).W_skip, sae.W_skip)


def test_the_untrained_dictionary_has_the_best_gain_beside_the_path() -> None:
    x = tokens(200)
    fresh = random_sae("none", skip=True).untrained(0, x)

    def error(factor: float) -> float:
        z = fresh.encode(x) * factor
        return float((fresh.decode(z, x) - x).square().sum())

    assert error(1) < min(error(0.98), error(1.02))


@settings(max_examples=25)
@given(st.integers(1, 8), st.integers(0, 10**6))
def test_largest_of_groups_and_signed_codes_against_loops(k: int, seed: int) -> None:
    pre = torch.randn(5, 8 * k, generator=torch.Generator().manual_seed(seed))
    by_hand, signed = torch.zeros_like(pre), torch.zeros_like(pre)
    for row in range(5):
        for group in range(k):
            at = 8 * group + int(pre[row, 8 * group : 8 * group + 8].argmax())
            by_hand[row, at] = max(float(pre[row, at]), 0.0)
        for at in pre[row].argsort(descending=True)[:k].tolist():
            signed[row, at] = pre[row, at]
    assert torch.equal(group_max(pre, k), by_hand)
    assert torch.equal(signed_top_k(pre, k), signed)


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="token_norm must be one of none, layer_norm, sqrt_d"):
        SAEConfig(D, S, "relu", token_norm="batch")
    with pytest.raises(ValueError, match="k must divide"):
        SAEConfig(D, S, "group_max", 5)
    with pytest.raises(ValueError, match="at least 1 and whole for activation=signed_topk"):
        SAEConfig(D, S, "signed_topk")


def test_usual_dictionaries_are_written_as_before() -> None:
    values = SAEConfig(D, S, "topk", 4).to_dict()
    assert "token_norm" not in values and "skip" not in values
    assert SAEConfig.from_dict(values, "here") == SAEConfig(D, S, "topk", 4)
    values = random_sae("sqrt_d", skip=True).cfg.to_dict()
    assert values["token_norm"] == "sqrt_d" and values["skip"] is True
