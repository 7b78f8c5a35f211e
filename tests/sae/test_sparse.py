"""The sparse path against dense autograd, which is the reference."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saev.sae import SAEConfig, SparseAutoencoder, products, sparse
from saev.sae.encode import BatchCodes, Encoding, encode_normalized
from saev.sae.products import wide_pre_activations

D, S, K = 6, 64, 4


def make(dtype: torch.dtype) -> SparseAutoencoder:
    generator = torch.Generator().manual_seed(0)
    sae = SparseAutoencoder(SAEConfig(D, S, "topk", K), generator).to(dtype)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=dtype))
        # About half of the chosen pre-activations are negative, so that the ReLU matters.
        sae.b_enc.sub_(3.2)
    return sae


def reconstruct(
    sae: SparseAutoencoder, x_bar: torch.Tensor, use_sparse: bool
) -> tuple[torch.Tensor, BatchCodes]:
    codes = encode_normalized(sae, x_bar, Encoding(sparse=use_sparse))
    return codes.decode(sae.W_dec, sae.b_dec), codes


def gradients(sae: SparseAutoencoder, x: torch.Tensor, use_sparse: bool) -> dict:
    sae.zero_grad()
    x = x.clone().requires_grad_()
    x_hat, codes = reconstruct(sae, x, use_sparse)
    # Each token weighs differently, and the codes have a loss of their own.
    weights = torch.linspace(0.5, 2.0, len(x), dtype=x.dtype)
    loss = ((x_hat - x).square().sum(-1) * weights).sum() + 0.3 * codes.values.square().sum()
    loss.backward()
    found = {name: p.grad.clone() for name, p in sae.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), "x": x.grad, **found}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])
def test_gradients_equal_dense_autograd(dtype: torch.dtype, tolerance: float) -> None:
    sae = make(dtype)
    x = 2 * torch.randn(40, D, generator=torch.Generator().manual_seed(1), dtype=dtype)
    dense, fast = gradients(sae, x, False), gradients(sae, x, True)
    _, codes = reconstruct(sae, x, True)
    assert 0.2 < (codes.values > 0).double().mean() < 0.8
    assert set(dense) == {"loss", "x", "W_enc", "b_enc", "W_dec", "b_dec"}
    for name, expected in dense.items():
        error = (fast[name] - expected).abs().max() / expected.abs().max()
        assert error <= tolerance, name


def test_gradients_against_finite_differences() -> None:
    sae = make(torch.float64)
    x = 2 * torch.randn(5, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def forward(*tensors: torch.Tensor) -> torch.Tensor:
        z, support = sparse.encode_topk(tensors[0], tensors[1], tensors[2], tensors[4], K)
        return products.decode_topk(z, tensors[3], tensors[4], support)

    inputs = [x, sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec]
    leaves = [t.detach().clone().requires_grad_() for t in inputs]
    assert torch.autograd.gradcheck(forward, leaves)


def test_second_backward_starts_from_nothing() -> None:
    sae = make(torch.float32)
    x = torch.randn(9, D)
    first, second = gradients(sae, x, True), gradients(sae, x, True)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("held", [False, True])
def test_gradients_in_kept_memory_are_the_same_to_the_bit(
    held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Block by block, some without a single pair, over what was there before."""
    monkeypatch.setattr(products, "GRADIENT_BLOCK_ELEMENTS", 5 * D)
    generator = torch.Generator().manual_seed(2)
    indices = torch.randint(20, 30, (11, K), generator=generator)
    indices[:, 0] = S - 1
    mask = torch.rand(11, K, generator=generator) < 0.5 if held else None
    values, rows = torch.randn(11, K, generator=generator), torch.randn(11, D, generator=generator)
    memory = products.GradientMemory()
    memory.take(S, rows)
    memory.give_back([torch.full((S, D), float("nan"))])
    found = products.SparseSupport(indices, S, mask, memory).transposed_product(values, rows)
    plain = products.SparseSupport(indices, S, mask).transposed_product(values, rows)
    assert torch.equal(found, plain) and (found != 0).any()


def test_gradient_memory_is_used_again_and_added_to() -> None:
    sae, memory = make(torch.float32), products.GradientMemory()
    how = Encoding(sparse=True, memory=memory)
    xs = torch.randn(3, 9, D, generator=torch.Generator().manual_seed(1))

    def backward(x: torch.Tensor) -> None:
        codes = encode_normalized(sae, x, how)
        (codes.decode(sae.W_dec, sae.b_dec) - x).square().sum().backward()

    def grads() -> list[torch.Tensor]:
        return [p.grad for p in (sae.W_enc, sae.W_dec) if p.grad is not None]

    def zero() -> None:
        memory.give_back(grads())
        sae.zero_grad()

    backward(xs[0])
    places = {grad.data_ptr() for grad in grads()}
    zero()
    backward(xs[1])
    assert {grad.data_ptr() for grad in grads()} == places
    kept = [grad.clone() for grad in grads()]
    backward(xs[2])  # two batches in one step
    assert {grad.data_ptr() for grad in grads()} == places
    both = [grad.clone() for grad in grads()]
    zero()
    backward(xs[2])
    for a, b, total in zip(kept, grads(), both, strict=True):
        assert torch.equal(a + b, total)


def test_gradient_memory_keeps_no_more_than_was_asked_for() -> None:
    memory, rows = products.GradientMemory(), torch.randn(3, D)
    dense = [torch.zeros(S, D), torch.zeros(S), torch.zeros(S, D)]
    memory.give_back(dense)
    first = memory.take(S, rows)
    assert all(first.data_ptr() != one.data_ptr() for one in dense)
    memory.give_back(dense)
    assert memory.take(S, rows) is dense[0]
    assert memory.take(S, rows) is not dense[2]
    memory.give_back(dense)
    assert memory.take(S, rows.double()).dtype == torch.float64


def test_row_blocks_do_not_change_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    sae = make(torch.float32)
    x = torch.randn(33, D)
    whole = sparse.select_topk(x, sae.W_enc, sae.b_enc, K)
    monkeypatch.setitem(sparse.PRE_BLOCK_ELEMENTS, "cpu", 5 * S)
    monkeypatch.setattr(sparse, "MIN_BLOCK_ROWS", 1)
    found = [len(block) for block in sparse.pre_blocks(x, sae.W_enc.detach(), sae.b_enc.detach())]
    assert found == [5, 5, 5, 5, 5, 5, 3]
    blocks = sparse.select_topk(x, sae.W_enc, sae.b_enc, K)
    torch.testing.assert_close(blocks[0].sort(1).values, whole[0].sort(1).values)
    assert torch.equal(blocks[1].sort(1).values, whole[1].sort(1).values)


@settings(max_examples=40, deadline=None)
@given(columns=st.integers(1, 12), k=st.integers(1, 5), seed=st.integers(0, 99), ties=st.booleans())
def test_grouped_search_finds_the_largest(columns: int, k: int, seed: int, ties: bool) -> None:
    s = columns * sparse.GROUP
    pre = torch.randn(6, s, generator=torch.Generator().manual_seed(seed))
    pre = pre.round() if ties else pre
    k = min(k, s)
    values, indices = sparse.largest(pre, k)
    assert torch.equal(values.sort(1).values, pre.topk(k).values.sort(1).values)
    assert torch.equal(pre.gather(1, indices), values)
    assert all(len(set(row.tolist())) == k for row in indices)


def test_bfloat16_products_stay_close_and_gradients_stay_float32() -> None:
    sae = make(torch.float32)
    x = torch.randn(64, D)
    exact, _ = reconstruct(sae, x, True)
    with torch.autocast("cpu", torch.bfloat16):
        x_hat, _ = reconstruct(sae, x, True)
    x_hat.square().sum().backward()
    assert x_hat.dtype == torch.float32 and sae.W_enc.grad is not None
    assert (x_hat - exact).norm() / exact.norm() < 0.05


@pytest.mark.parametrize("activation", ["topk", "batch_topk"])
def test_both_paths_choose_alike_under_bfloat16(activation: str) -> None:
    """Products rounded to bfloat16 tie often: 33.2 latents for 32, and another choice by each path."""
    generator = torch.Generator().manual_seed(0)
    sae = SparseAutoencoder(SAEConfig(24, 1536, activation, 32), generator)
    x = torch.randn(256, 24, generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        dense = encode_normalized(sae, x, Encoding(sparse=False))
        fast = encode_normalized(sae, x, Encoding(sparse=True))
    assert int((dense.values > 0).sum()) == int((fast.values > 0).sum()) == 256 * 32
    assert fast.indices is not None
    of_fast = torch.zeros_like(dense.values).scatter_add(1, fast.indices, fast.values)
    assert torch.equal(of_fast > 0, dense.values > 0)
    torch.testing.assert_close(of_fast, dense.values)


def test_products_under_bfloat16_have_the_gradients_of_their_rounded_factors() -> None:
    sae, x = make(torch.float32), torch.randn(16, D).requires_grad_()
    exact = sae.pre_activations(x.bfloat16().float())
    with torch.autocast("cpu", torch.bfloat16):
        wide = wide_pre_activations(x - sae.input_shift, sae.W_enc, sae.b_enc)
    assert wide.dtype == torch.float32
    torch.testing.assert_close(wide, exact, rtol=0.05, atol=0.1)
    wide.square().sum().backward()
    expected = 2 * wide.detach() @ sae.W_enc.detach()
    assert x.grad is not None
    assert float((x.grad - expected).norm() / expected.norm()) < 0.02


def test_firing_is_counted_alike_on_both_paths() -> None:
    sae = make(torch.float32)
    x = 2 * torch.randn(40, D)
    dense, fast = (reconstruct(sae, x, flag)[1] for flag in (False, True))
    assert torch.equal(dense.firing_counts(), fast.firing_counts())
    assert torch.equal(dense.last_firing(), fast.last_firing())
    values = torch.tensor([[0.0, 1.0], [2.0, 1.0], [0.0, 3.0], [1.0, 0.0]])
    codes = BatchCodes(values, None, None, None, 2)
    assert codes.firing_counts().tolist() == [2, 3]
    assert codes.last_firing().tolist() == [3, 2]


def test_the_path_follows_the_ratio() -> None:
    assert sparse.prefers_sparse(3072, 32, "cpu")
    assert not sparse.prefers_sparse(64, 32, "cpu")
    assert not sparse.prefers_sparse(3072, 32, "cuda")
    assert not sparse.prefers_sparse(10**9, 1, "unheard of")
