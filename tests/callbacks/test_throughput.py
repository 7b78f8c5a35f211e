import time

import pytest
from torch.utils.data import DataLoader, Dataset

from callbacks.throughput import Throughput
from tests.fakes.planted import (
    LIGHTNING_WARNINGS,
    Batch,
    Recorder,
    activations,
    fit,
    make_module,
)

pytestmark = LIGHTNING_WARNINGS


def test_rates_are_logged_at_every_logging_step() -> None:
    data = activations(640)
    logger = Recorder()
    start = time.perf_counter()
    fit(make_module(data), data, callbacks=[Throughput()], logger=logger, log_every_n_steps=5)
    elapsed = time.perf_counter() - start
    rates = logger.column("train/tokens_per_second")
    assert len(rates) == 2 and all(rate > 640 / elapsed for rate in rates)
    assert logger.column("train/images_per_batch") == [3, 3]
    assert all(0 <= share < 1 for share in logger.column("train/data_wait_fraction"))


class Slow(Dataset):
    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Batch:
        time.sleep(0.05)
        return Batch(activations(8), index)


@pytest.mark.slow
def test_waiting_is_seen_and_validation_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    loaders = iter([DataLoader(Slow(), batch_size=None), DataLoader(Slow(), batch_size=None)])
    monkeypatch.setattr("tests.fakes.planted.loader", lambda *_: next(loaders))
    logger = Recorder()
    data = activations(80)
    fit(
        make_module(data),
        data,
        8,
        val=data,
        callbacks=[Throughput()],
        logger=logger,
        log_every_n_steps=10,
        val_check_interval=5,
        limit_val_batches=4,
    )
    assert logger.column("train/data_wait_fraction")[0] > 0.5
    assert logger.column("train/images_per_batch") == [4.5]
    # 80 tokens in at least 8 waits of 0.05 s; with validation counted it would be half the rate.
    assert logger.column("train/tokens_per_second")[0] > 80 / 0.75
