"""Two processes with half of each batch against one process with all of it."""

from pathlib import Path

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from callbacks.resample import ResampleDeadLatents
from saev.modules import SAETraining
from saev.modules.distributed import rank, world_size
from tests.modules.planted import LIGHTNING_WARNINGS, Batch, activations, fit, make_module

pytestmark = [pytest.mark.slow, *LIGHTNING_WARNINGS]


class Share(IterableDataset):
    """Each rank's part of every batch of 64."""

    def __init__(self, data: Tensor) -> None:
        self.data = data

    def __iter__(self):
        for whole in self.data.split(64):
            yield Batch(whole.chunk(world_size())[rank()], 1)


class KeepWeights(L.Callback):
    """Writes each rank's end state to a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        torch.save(pl_module.state_dict(), self.folder / f"rank{rank()}.pt")


def sick_module(data: Tensor) -> SAETraining:
    module = make_module(data)
    with torch.no_grad():
        module.sae.b_enc[::4] = -10.0
    return module


def test_two_ranks_follow_one_and_agree(tmp_path: Path) -> None:
    data = activations(64 * 25)

    def resample() -> ResampleDeadLatents:
        return ResampleDeadLatents(64 * 20, dead_after_tokens=64 * 10, pool_tokens=640, n_times=1)

    trainer = L.Trainer(
        max_steps=25,
        accelerator="cpu",
        devices=2,
        strategy="ddp_spawn",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=1.0,
        callbacks=[resample(), KeepWeights(tmp_path)],
    )
    trainer.fit(sick_module(data), DataLoader(Share(data), batch_size=None))
    first, second = (torch.load(tmp_path / f"rank{r}.pt", weights_only=True) for r in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name

    single = sick_module(data)
    fit(single, data, callbacks=[resample()])
    alone = single.state_dict()
    # The inputs drawn differ (a rank sees half of the pool); which latents get one does not.
    ill = torch.zeros(64, dtype=torch.bool)
    ill[::4] = True
    for name in ("sae.W_enc", "sae.W_dec", "sae.b_enc"):
        torch.testing.assert_close(first[name][~ill], alone[name][~ill], atol=0.02, rtol=0.02)
    assert bool((first["tokens_since_fired"][ill] <= 64 * 5).all())
    assert bool((alone["tokens_since_fired"][ill] <= 64 * 5).all())


def test_death_is_counted_over_ranks(tmp_path: Path) -> None:
    data = activations(640)
    trainer = L.Trainer(
        max_steps=10,
        accelerator="cpu",
        devices=2,
        strategy="ddp_spawn",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[KeepWeights(tmp_path)],
    )
    module = make_module(data, lr=1e-12)
    trainer.fit(module, DataLoader(Share(data), batch_size=None))
    counted = torch.load(tmp_path / "rank0.pt", weights_only=True)["tokens_since_fired"]
    fires = module.sae.encode(data) > 0
    last = torch.where(fires, torch.arange(640).unsqueeze(1), -1).amax(0)
    assert torch.equal(counted, 639 - last)
