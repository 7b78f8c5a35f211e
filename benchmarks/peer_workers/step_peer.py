"""Steps of another library's own TopK trainer, so many at a time; ``benchmarks.speed.peers`` starts it.

    PYTHON step_peer.py LIBRARY d d_sae k batch threads

Reads a number of steps a line, makes them, and writes their seconds as a JSON list. A step is the time
from handing a batch to the library's loop to being asked for the next one; in between the loop is held,
so that others can run. Each library keeps its defaults; nothing is logged, evaluated or saved.
"""

import contextlib
import json
import os
import sys
import time
import types
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

ANSWERS = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # what the library prints


class Enough(BaseException):
    """Nobody asks any more."""


class Batches:
    """Endless batches of noise with some structure, and the clock."""

    def __init__(self, d: int, batch: int) -> None:
        generator = torch.Generator().manual_seed(0)
        basis = torch.randn(64, d, generator=generator) / 4
        self.pool = [
            torch.randn(batch, d, generator=generator)
            + torch.randn(batch, 64, generator=generator) @ basis
            for _ in range(4)
        ]
        self.n_given = self.n_wanted = 0
        self.seconds: list[float] = []
        self.given_at: float | None = None

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __len__(self) -> int:
        return 10**9

    def __next__(self) -> Tensor:
        if self.given_at is not None:
            self.seconds.append(time.perf_counter() - self.given_at)
        while len(self.seconds) >= self.n_wanted:
            if self.n_wanted:
                ANSWERS.write(json.dumps(self.seconds) + "\n")
            line = sys.stdin.readline()
            if not line:
                raise Enough
            self.n_wanted, self.seconds = int(line), []
        self.n_given += 1
        self.given_at = time.perf_counter()
        return self.pool[self.n_given % len(self.pool)]


def sae_lens(batches: Batches, d: int, d_sae: int, k: int, batch: int) -> None:
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    cfg = SAETrainerConfig(
        total_training_samples=batch * 10**6, train_batch_size_samples=batch, lr_end=3e-5,
        logger=LoggingConfig(log_to_wandb=False), device="cpu",
    )  # fmt: skip
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=d, d_sae=d_sae, k=k, device="cpu"))
    SAETrainer(cfg, sae, batches).fit()


def dictionary_learning(batches: Batches, d: int, d_sae: int, k: int, batch: int) -> None:
    stub = types.ModuleType("nnsight")  # only its buffer of language-model activations needs it
    stub.__dict__["LanguageModel"] = object
    sys.modules.setdefault("nnsight", stub)
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer = TopKTrainer(
        steps=10**6, activation_dim=d, dict_size=d_sae, k=k, layer=10, lm_name="vit", seed=0,
        device="cpu",
    )  # fmt: skip
    for step, acts in enumerate(batches):  # what its trainSAE does
        trainer.update(step, acts)


def sparsify(batches: Batches, d: int, d_sae: int, k: int, batch: int) -> None:
    os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # its kernels need a GPU
    from sparsify import SaeConfig, TrainConfig, Trainer

    n_rows = 32

    class Tap(torch.nn.Module):
        """In place of the model whose activations it hooks: each call gives the next batch."""

        def __init__(self) -> None:
            super().__init__()
            self.tap, self.device, self.base_model = torch.nn.Identity(), torch.device("cpu"), self
            self.dummy_inputs = {"input_ids": torch.zeros(1, 1, dtype=torch.long)}

        def forward(self, input_ids: Tensor) -> Tensor:
            if input_ids.numel() == batch:
                return self.tap(next(batches).view(n_rows, -1, d))
            return self.tap(torch.zeros(*input_ids.shape, d))  # its look at the width

    class Rows(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return n_rows * 10**6

        def __getitem__(self, place: int) -> dict[str, Tensor]:
            return {"input_ids": torch.zeros(batch // n_rows, dtype=torch.long)}

    cfg = TrainConfig(
        SaeConfig(num_latents=d_sae, k=k), batch_size=n_rows, hookpoints=["tap"],
        log_to_wandb=False, save_every=10**9,
    )  # fmt: skip
    Trainer(cfg, Rows(), Tap()).fit()


def overcomplete(batches: Batches, d: int, d_sae: int, k: int, batch: int) -> None:
    import matplotlib

    # its figures ask for a name that matplotlib 3.9 took away
    matplotlib.cm.get_cmap = matplotlib.colormaps.get_cmap
    from overcomplete.sae import TopKSAE, train_sae

    sae = TopKSAE(d, nb_concepts=d_sae, top_k=k, device="cpu")

    def loss(x: Tensor, x_hat: Tensor, pre: Tensor, codes: Tensor, dictionary: Tensor) -> Tensor:
        return (x - x_hat).square().mean()  # of its README, as is the rate

    train_sae(
        sae, batches, loss, torch.optim.Adam(sae.parameters(), lr=5e-4), nb_epochs=1, monitoring=0,
        device="cpu",
    )  # fmt: skip


LIBRARIES: dict[str, Callable[[Batches, int, int, int, int], None]] = {
    "sae-lens": sae_lens,
    "dictionary-learning": dictionary_learning,
    "sparsify": sparsify,
    "overcomplete": overcomplete,
}


def main() -> None:
    library = sys.argv[1]
    d, d_sae, k, batch, threads = map(int, sys.argv[2:])
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    with contextlib.suppress(Enough):
        LIBRARIES[library](Batches(d, batch), d, d_sae, k, batch)


if __name__ == "__main__":
    main()
