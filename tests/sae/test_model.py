import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saev.sae import SAEConfig, SparseAutoencoder


def make(activation: str = "topk", k: int | None = 3, max_norm: float | None = None):
    cfg = SAEConfig(5, 12, activation, k, max_norm=max_norm)
    sae = SparseAutoencoder(cfg, torch.Generator().manual_seed(0))
    sae.set_statistics(torch.arange(5.0), 0.5, max_norm)
    with torch.no_grad():
        sae.b_enc.copy_(torch.linspace(-0.3, 0.3, 12))
        sae.b_dec.copy_(torch.linspace(0.1, -0.2, 5))
    return sae.requires_grad_(False)


def slow_codes(sae: SparseAutoencoder, x: Tensor) -> Tensor:
    """The definition, one token and one latent at a time."""
    out = torch.zeros(sae.cfg.d_sae)
    x_bar = [float(sae.scale) * (float(x[j]) - float(sae.mean[j])) for j in range(len(x))]
    for i in range(sae.cfg.d_sae):
        weighted = [
            float(sae.W_enc[i, j]) * (x_bar[j] - float(sae.b_dec[j])) for j in range(len(x))
        ]
        out[i] = sum(weighted) + float(sae.b_enc[i])
    order = sorted(range(len(out)), key=lambda i: -float(out[i]))
    kept = order if sae.cfg.k is None else order[: sae.cfg.k]
    return torch.tensor([max(0.0, float(out[i])) if i in kept else 0.0 for i in range(len(out))])


@pytest.mark.parametrize(("activation", "k"), [("topk", 3), ("relu", None)])
def test_codes_follow_the_definition(activation: str, k: int | None) -> None:
    sae = make(activation, k)
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(3)) * 4
    torch.testing.assert_close(sae.encode(x), torch.stack([slow_codes(sae, row) for row in x]))


def test_decode_is_affine_in_raw_units() -> None:
    sae = make()
    z = torch.rand(2, 12)
    expected = (z @ sae.W_dec + sae.b_dec) / 0.5 + torch.arange(5.0)
    torch.testing.assert_close(sae.decode(z), expected)


@settings(max_examples=20, deadline=None)
@given(shape=st.lists(st.integers(1, 4), max_size=3))
def test_l0_is_k_and_rows_do_not_interact_for_any_leading_shape(shape: list[int]) -> None:
    sae = make()
    sae.b_enc.add_(100)  # every pre-activation is positive
    x = torch.randn(*shape, 5) * 4
    z = sae.encode(x)
    assert z.shape == (*shape, 12)
    assert bool(((z > 0).sum(-1) == 3).all())
    one_by_one = torch.stack([sae.encode(row) for row in x.reshape(-1, 5)])
    torch.testing.assert_close(z.reshape(-1, 12), one_by_one)


def test_normalisation_is_undone() -> None:
    sae = make()
    x = torch.randn(3, 5)
    torch.testing.assert_close(sae.denormalize(sae.normalize(x)), x)


def test_tokens_above_the_norm_limit_pass_through() -> None:
    sae = make(max_norm=10.0)
    x = torch.zeros(2, 3, 5)
    x[..., 0] = torch.tensor([[1.0, 10.0, 10.1], [100.0, 2.0, 3.0]])
    normal = torch.tensor([[True, True, False], [False, True, True]])
    assert torch.equal(sae.is_normal(x), normal)
    out = sae.reconstruct(x)
    assert torch.equal(out[~normal], x[~normal])
    assert torch.equal(out[normal], sae.decode(sae.encode(x))[normal])
    assert sae(x).equal(out)


def test_half_precision_input_keeps_its_dtype_and_does_not_overflow() -> None:
    sae = make(max_norm=2000.0)
    x = torch.full((1, 5), 600.0, dtype=torch.float16)  # its square overflows float16
    assert bool(sae.is_normal(x))
    assert sae.reconstruct(x).dtype == torch.float16


def test_untrained_keeps_the_normalisation_and_nothing_learned() -> None:
    sae = make(max_norm=10.0)
    null = sae.untrained(seed=4)
    assert null.cfg == sae.cfg
    assert torch.equal(null.mean, sae.mean) and torch.equal(null.scale, sae.scale)
    assert not torch.equal(null.W_dec, sae.W_dec) and bool((null.b_dec == 0).all())
    assert torch.equal(null.W_dec, sae.untrained(seed=4).W_dec)


def photographs(n: int) -> Tensor:
    """Activations of which a few directions hold most of the variance, around a long mean."""
    generator = torch.Generator().manual_seed(1)
    spread = torch.arange(1, 33).float() ** -0.7
    basis = torch.linalg.qr(torch.randn(32, 32, generator=generator)).Q
    return (torch.randn(n, 32, generator=generator) * spread) @ basis + 3


def of_photographs(activation: str, k: float | None, x: Tensor) -> SparseAutoencoder:
    generator = torch.Generator().manual_seed(0)
    sae = SparseAutoencoder(SAEConfig(32, 512, activation, k), generator).requires_grad_(False)
    centred = x - x.mean(0)
    sae.set_statistics(x.mean(0), float((32 / centred.square().sum(1).mean()).sqrt()), None)
    if activation in ("relu", "jump_relu", "gated"):
        sae.b_enc.fill_(-3.0)
    if activation == "batch_topk":
        sae.threshold.fill_(3.0)
    return sae


@pytest.mark.parametrize(
    ("activation", "k"),
    [("topk", 16), ("batch_topk", 16.0), ("relu", None), ("jump_relu", 16), ("gated", None)],
)
def test_untrained_is_as_sparse_and_explains_what_random_atoms_can(
    activation: str, k: float | None
) -> None:
    x, held_out = photographs(4000).split(2000)
    sae = of_photographs(activation, k, x)
    l0 = float((sae.encode(x) > 0).sum(1).float().mean())
    null = sae.untrained(seed=4, acts=x)
    assert float((null.encode(held_out) > 0).sum(1).float().mean()) == pytest.approx(round(l0))
    error = (held_out - null.reconstruct(held_out)).square().sum()
    explained = 1 - float(error / (held_out - held_out.mean(0)).square().sum())
    assert explained > 0.3
    for gain in (0.8, 1.2):  # no other length of the codes is as good
        other = sae.untrained(seed=4, acts=x)
        other.W_enc.mul_(gain)
        assert (held_out - other.reconstruct(held_out)).square().sum() > error


def test_untrained_without_gain_explains_less_than_nothing() -> None:
    x = photographs(2000)
    raw = of_photographs("topk", 16, x).untrained(seed=4)
    assert (x - raw.reconstruct(x)).square().sum() > (x - x.mean(0)).square().sum()


def test_untrained_leaves_abnormal_activations_out() -> None:
    x = photographs(1000)
    sae = of_photographs("relu", None, x)
    sae.set_statistics(sae.mean, float(sae.scale), 50.0)
    with_artefacts = torch.cat([100 * x[:1], x])
    null = sae.untrained(acts=with_artefacts)
    assert torch.equal(null.W_enc, sae.untrained(acts=x).W_enc)
    nothing = sae.untrained(acts=100 * x[:3])
    assert torch.equal(nothing.W_enc, sae.untrained().W_enc)


@pytest.mark.parametrize(
    ("mean", "scale", "part"),
    [
        (torch.zeros(4), 1.0, "mean must have d_model=5"),
        (torch.zeros(5), 0.0, "scale must be a positive"),
        (torch.zeros(5), float("nan"), "scale must be a positive"),
    ],
)
def test_wrong_statistics_are_refused(mean: Tensor, scale: float, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        make().set_statistics(mean, scale, None)
