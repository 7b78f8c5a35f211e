"""Two processes (gloo) with half of each batch against one process with all of it."""

import os
import socket
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from callbacks.ema import EMAWeights
from callbacks.resample import ResampleDeadLatents
from saev.sae.objectives import GatedL1, Matryoshka, PAnneal, TargetL0
from saev.training.distributed import gather_rows, part_ways, rank, world_size
from saev.training.sae_module import SAETraining
from tests.fakes.planted import (
    LIGHTNING_WARNINGS,
    UNIT_GAIN,
    Batch,
    Recorder,
    activations,
    fit,
    jump,
    make_module,
)

pytestmark = [pytest.mark.slow, *LIGHTNING_WARNINGS]

N_STEPS, BATCH = 40, 64
SICK = torch.arange(0, 64, 4)
AUX = {"aux_coefficient": 1 / 32, "dead_after_tokens": BATCH * 6}

VARIANTS: dict[str, Any] = {
    "topk": lambda: AUX,
    "batch_topk": lambda: {"activation": "batch_topk", **AUX},
    "matryoshka_random": lambda: {
        "activation": "batch_topk", "k": 4, "objective": Matryoshka(n_random=3), **AUX,
    },
    "jump_relu": lambda: {
        "activation": "jump_relu", "objective": TargetL0(1.0),
        "jump_relu": jump(threshold_lr_factor=3), **AUX,
    },
    "gated": lambda: {
        "activation": "gated", "objective": GatedL1(0.3, 0.01), "init": UNIT_GAIN,
    },
    "p_anneal": lambda: {
        "activation": "relu", "k": None, "objective": PAnneal(0.3, p_end=0.2), "init": UNIT_GAIN,
    },
}  # fmt: skip


class Share(IterableDataset):
    """Each rank's part of every batch."""

    def __init__(self, data: Tensor) -> None:
        self.data = data

    def __iter__(self):
        for whole in self.data.split(BATCH):
            yield Batch(whole.chunk(world_size())[rank()], 1)


class Watch(L.Callback):
    """Which latents are dead, and which atoms anything but the optimiser has moved, by step."""

    def __init__(self) -> None:
        self.dead: list[Tensor] = []
        self.thresholds: list[Tensor] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        self.dead.append((pl_module.tokens_since_fired >= BATCH * 6).clone())
        threshold = getattr(pl_module.sae, "threshold", torch.zeros(()))
        self.thresholds.append(threshold.detach().clone())


class History:
    """One run: what was logged at each step, dead latents, end state, averaged weights, metrics."""

    def __init__(self, name: str, data: Tensor, **trainer: Any) -> None:
        module = make_module(data, **{"dead_after_tokens": BATCH * 6, **VARIANTS[name]()})
        with torch.no_grad():
            module.sae.b_enc[SICK] = -10.0
        resample = ResampleDeadLatents(
            BATCH * 20, dead_after_tokens=BATCH * 6, pool_tokens=BATCH * 10, n_times=1
        )
        logger, watch = Recorder(), Watch()
        callbacks = [watch, resample, EMAWeights(0.9)]
        run = self.fit(module, data, callbacks, logger, **trainer)
        self.losses = torch.tensor(logger.column("train/loss"))
        self.l0 = torch.tensor(logger.column("train/l0"))
        self.explained = torch.tensor(logger.column("train/explained_variance"))
        self.dead, self.thresholds = torch.stack(watch.dead), torch.stack(watch.thresholds)
        self.n_resampled = resample.n_resampled
        self.end = {name: value.clone() for name, value in module.state_dict().items()}
        self.averaged = module.averaged or {}
        self.metrics = {
            key: float(value)
            for key, value in run.callback_metrics.items()
            if key.startswith("val/")
        }

    @staticmethod
    def fit(
        module: SAETraining, data: Tensor, callbacks: list, logger: Recorder, **trainer: Any
    ) -> L.Trainer:
        settings = {"logger": logger, "callbacks": callbacks, "log_every_n_steps": 1, **trainer}
        if world_size() == 1 and not trainer:
            return fit(module, data, BATCH, val=data[: BATCH * 4], **settings)
        run = L.Trainer(
            max_steps=N_STEPS, accelerator="cpu", enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
            gradient_clip_val=1.0, **settings,
        )  # fmt: skip
        loaders = (DataLoader(Share(part), batch_size=None) for part in (data, data[: BATCH * 4]))
        run.fit(module, *loaders)
        return run


def work(number: int, port: int, folder: str) -> None:
    """One of the two processes: every variant after the other."""
    warnings.filterwarnings("ignore")
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2",
        LOCAL_RANK=str(number), NODE_RANK="0",
    )  # fmt: skip
    torch.set_num_threads(1)
    data = activations(BATCH * N_STEPS)
    for name in VARIANTS:
        found = History(name, data, devices=2, strategy="ddp")
        torch.save(vars(found), Path(folder) / f"{name}-{number}.pt")
    unequal = gather_rows(torch.arange(3 + number).unsqueeze(1))
    assert unequal.flatten().tolist() == [0, 1, 2, 0, 1, 2, 3]
    part_ways()  # a process that ends with gloo's threads running may be aborted by them


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    path = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(work, (port, str(path)), nprocs=2)
    return path


@pytest.mark.parametrize("name", VARIANTS)
def test_two_ranks_agree_and_follow_one(name: str, folder: Path) -> None:
    first, second = (torch.load(folder / f"{name}-{n}.pt", weights_only=True) for n in range(2))
    for key in ("end", "averaged"):
        for tensor, value in first[key].items():
            assert torch.equal(value, second[key][tensor]), (key, tensor)
    for key in ("losses", "dead", "thresholds"):
        assert torch.equal(first[key], second[key]), key
    assert first["metrics"] == second["metrics"]

    alone = History(name, activations(BATCH * N_STEPS))
    assert torch.equal(first["dead"], alone.dead)
    assert first["n_resampled"] == alone.n_resampled >= len(SICK)
    torch.testing.assert_close(first["losses"], alone.losses, rtol=2e-3, atol=0)
    torch.testing.assert_close(first["explained"], alone.explained, rtol=0, atol=1e-3)
    torch.testing.assert_close(first["l0"], alone.l0, rtol=5e-3, atol=0)
    torch.testing.assert_close(first["thresholds"], alone.thresholds, rtol=2e-3, atol=1e-4)
    # The resampled ones included: both drew the same inputs from the same pool.
    for tensor in ("sae.W_enc", "sae.W_dec", "sae.b_enc", "sae.b_dec"):
        torch.testing.assert_close(first["end"][tensor], alone.end[tensor], rtol=0.02, atol=0.01)
    for tensor, value in alone.averaged.items():
        torch.testing.assert_close(first["averaged"][tensor], value, rtol=0.02, atol=0.01)
    for key, value in alone.metrics.items():
        assert first["metrics"][key] == pytest.approx(value, abs=2e-3, rel=5e-3), key


def test_death_is_counted_over_ranks(folder: Path) -> None:
    """Tokens since the last firing, to the token, whatever rank it was on."""
    found = torch.load(folder / "topk-0.pt", weights_only=True)["end"]["tokens_since_fired"]
    alone = History("topk", activations(BATCH * N_STEPS)).end["tokens_since_fired"]
    assert torch.equal(found, alone)
