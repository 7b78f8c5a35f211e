"""BatchTopK: what is kept in training, and the threshold that takes its place."""

import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saev.sae import SAEConfig, SparseAutoencoder
from saev.sae.encode import BatchCodes, Encoding, encode_normalized
from saev.sae.threshold import batch_threshold, calibrate_threshold_, kth_largest, threshold_for

D, S = 6, 40


def make(k: float = 4, max_norm: float | None = None) -> SparseAutoencoder:
    generator = torch.Generator().manual_seed(0)
    sae = SparseAutoencoder(SAEConfig(D, S, "batch_topk", k, max_norm=max_norm), generator)
    sae.set_statistics(torch.linspace(-1, 1, D), 0.7, max_norm)
    return sae.requires_grad_(False)


def tokens(*shape: int, seed: int = 1) -> torch.Tensor:
    return 3 * torch.randn(*shape, D, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("k", [4, 1, 2.5])
@pytest.mark.parametrize("sparse", [False, True])
def test_training_keeps_the_largest_of_the_whole_batch(k: float, sparse: bool) -> None:
    sae = make(k)
    x_bar = sae.normalize(tokens(16))
    codes = encode_normalized(sae, x_bar, Encoding(sparse=sparse))
    pre = sae.pre_activations(x_bar).relu().flatten()
    expected = pre.sort(descending=True).values[: int(k * 16)]
    kept = codes.values[codes.values > 0].sort(descending=True).values
    torch.testing.assert_close(kept, expected)
    torch.testing.assert_close(codes.threshold, expected[-1])


def test_tokens_of_one_batch_share_unevenly() -> None:
    """One token with long input may take most of the budget: more than four times k."""
    sae = make(2)
    x_bar = sae.normalize(tokens(8))
    x_bar[0] *= 100
    for sparse in (False, True):
        counts = (encode_normalized(sae, x_bar, Encoding(sparse=sparse)).values > 0).sum(1)
        assert counts.sum() == 16 and counts[0] > 8


class Ranks:
    """Two threads in the place of two processes; ``gather`` waits for the other, as a real one."""

    def __init__(self) -> None:
        self.meet = threading.Barrier(2, timeout=20)
        self.given: dict[int, torch.Tensor] = {}

    def gather(self, rank: int, mine: torch.Tensor) -> torch.Tensor:
        self.given[rank] = mine
        self.meet.wait()
        every = torch.cat([self.given[0], self.given[1]])
        self.meet.wait()
        return every

    def run(self, job: Callable[[int, Encoding], BatchCodes]) -> list[BatchCodes]:
        def of(rank: int) -> BatchCodes:
            gather = functools.partial(self.gather, rank)
            return job(rank, Encoding(gather=gather, sparse=rank == 0))

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(of, range(2)))


@pytest.mark.parametrize("share", [10, 3])  # of 20 tokens
def test_ranks_choose_as_one(share: int) -> None:
    sae = make()
    x_bar = sae.normalize(tokens(20))
    x_bar[:2] *= 30  # their codes are rank 0's alone
    whole = encode_normalized(sae, x_bar, Encoding(sparse=True))
    parts = x_bar[:share], x_bar[share:]
    found = Ranks().run(lambda rank, how: encode_normalized(sae, parts[rank], how))
    assert sum(int((codes.values > 0).sum()) for codes in found) == int((whole.values > 0).sum())
    for codes in found:
        torch.testing.assert_close(codes.threshold, whole.threshold)


def test_a_floor_that_is_too_high_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample of tokens with the longest inputs says little of the others."""
    sae = make()
    x_bar = sae.normalize(tokens(64))
    x_bar[0] *= 100
    monkeypatch.setattr("saev.sae.threshold.FLOOR_TOKENS", 1)
    pre = sae.pre_activations(x_bar).relu()
    expected = pre.flatten().sort(descending=True).values[64 * 4 - 1]
    for sparse in (False, True):
        codes = encode_normalized(sae, x_bar, Encoding(sparse=sparse))
        torch.testing.assert_close(codes.threshold, expected)
        assert int((codes.values > 0).sum()) == 64 * 4


def test_a_batch_without_positive_codes_keeps_nothing() -> None:
    assert batch_threshold(torch.zeros(3, 5), 3, 2) > 0
    assert kth_largest(torch.tensor([3.0, 1.0, 2.0]), 2) == 2
    assert kth_largest(torch.tensor([3.0]), 2) == 0


@pytest.mark.parametrize("k", [1, 4, 2.5])
def test_calibration_gives_the_mean_l0_exactly(k: float) -> None:
    sae, x = make(k), tokens(1000)
    calibrate_threshold_(sae, x.split(300))
    assert int((sae.encode(x) > 0).sum()) == int(k * 1000)
    # On other tokens of the same kind it stays close.
    l0 = (sae.encode(tokens(4000, seed=9)) > 0).sum(1).double().mean()
    assert float(l0) == pytest.approx(k, rel=0.1)


def test_calibration_by_chunks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    sae, x = make(), tokens(500)
    whole = float(threshold_for(sae, [x], 4))
    monkeypatch.setattr("saev.sae.threshold.CHUNK_CODES", S * 7)
    assert float(threshold_for(sae, [x], 4)) == pytest.approx(whole, rel=1e-6)


def test_calibration_leaves_abnormal_tokens_out() -> None:
    sae = make(max_norm=15.0)
    x = tokens(500)
    with_outliers = torch.cat([x, 1000 * x[:50]])
    assert float(threshold_for(sae, [with_outliers], 4)) == pytest.approx(
        float(threshold_for(sae, [x], 4))
    )
    with pytest.raises(ValueError, match="No token"):
        threshold_for(sae, [1000 * x[:5] + 500], 4)


def test_only_batch_topk_has_something_to_calibrate() -> None:
    sae = SparseAutoencoder(SAEConfig(D, S, "topk", 4))
    with pytest.raises(ValueError, match="must be batch_topk"):
        calibrate_threshold_(sae, [tokens(5)])


@settings(max_examples=20, deadline=None)
@given(shape=st.lists(st.integers(1, 4), max_size=3))
def test_inference_treats_tokens_alone_for_any_leading_shape(shape: list[int]) -> None:
    sae = make()
    sae.threshold.fill_(1.3)
    x = tokens(*shape)
    z = sae.encode(x)
    assert z.shape == (*shape, S)
    one_by_one = torch.stack([sae.encode(row) for row in x.reshape(-1, D)])
    torch.testing.assert_close(z.reshape(-1, S), one_by_one)
    assert bool(((z == 0) | (z > 1.3)).all())


def test_l0_is_k_for_every_leading_shape_of_the_same_tokens() -> None:
    """Counting only the first axis would keep 8 times too few here."""
    sae, x = make(), tokens(64)
    calibrate_threshold_(sae, [x])
    for shape in ((64, D), (8, 8, D), (2, 4, 8, D)):
        assert (sae.encode(x.reshape(shape)) > 0).sum(-1).double().mean() == 4
