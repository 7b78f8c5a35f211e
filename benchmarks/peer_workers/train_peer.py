"""One TopK dictionary by another library's own training loop; ``benchmarks.peers`` starts it.

    PYTHON train_peer.py LIBRARY FOLDER OUT --rate 1e-3 --steps 977 --batch 2048 … [--save DIR --took FILE]

FOLDER holds ``train.npy`` and ``heldout.npy``, normalised activations (n, d); the reconstructions of
the second are left in OUT, and with ``--save`` the dictionary in DIR as the library itself saves it.
``--took FILE`` gets JSON: how long training took. A rate of 0 is the library's own.
Each library keeps its defaults apart from what the budget sets: the rate, the number of steps, a
warm-up of 5 % where it has one (their 1,000 steps would be the whole run), and a decay to 0, or to the
least it allows, over the last quarter where it can do one.
"""

import argparse
import json
import os
import random
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn


class Trained(NamedTuple):
    """What a library leaves."""

    reconstruct: Callable[[Tensor], Tensor]
    save: Callable[[Path], Any]
    """Into a folder, which is there."""


def batches(acts: Tensor, size: int, seed: int) -> Iterator[Tensor]:
    """Endless; every epoch in an order of its own, the same for all libraries."""
    rng = np.random.default_rng(seed)
    while True:
        order = torch.from_numpy(rng.permutation(len(acts)))
        for rows in order.split(size):
            if len(rows) == size:
                yield acts[rows]


def saelens(acts: Tensor, a: argparse.Namespace) -> Trained:
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    sae = TopKTrainingSAE(
        TopKTrainingSAEConfig(d_in=acts.shape[1], d_sae=a.d_sae, k=a.k, device=a.device)
    )
    rate = {"lr": a.rate} if a.rate else {}
    cfg = SAETrainerConfig(
        total_training_samples=a.steps * a.batch, train_batch_size_samples=a.batch, lr_end=0.0,
        lr_decay_steps=a.steps // 4, logger=LoggingConfig(log_to_wandb=False), device=a.device, **rate,
    )  # fmt: skip
    trained = SAETrainer(cfg, sae, batches(acts, a.batch, a.seed)).fit()
    return Trained(lambda x: trained.decode(trained.encode(x)), trained.save_inference_model)


def dictionary_learning(acts: Tensor, a: argparse.Namespace) -> Trained:
    stub = types.ModuleType("nnsight")  # only its buffer of language-model activations needs it
    stub.__dict__["LanguageModel"] = object
    sys.modules.setdefault("nnsight", stub)
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer = TopKTrainer(
        steps=a.steps, activation_dim=acts.shape[1], dict_size=a.d_sae, k=a.k, layer=10,
        lm_name="vit", lr=a.rate or None, warmup_steps=a.steps // 20, decay_start=a.steps * 3 // 4,
        seed=a.seed, device=a.device,
    )  # fmt: skip
    stream = batches(acts, a.batch, a.seed)
    for step in range(a.steps):  # what its trainSAE does
        trainer.update(step, next(stream))

    def save(folder: Path) -> None:  # what its trainSAE does
        torch.save(trainer.ae.state_dict(), folder / "ae.pt")
        (folder / "config.json").write_text(json.dumps({"trainer": trainer.config}, indent=4))

    return Trained(trainer.ae, save)


README_RATE = 5e-4
"""Overcomplete has no default; its README's example has this one."""


def overcomplete(acts: Tensor, a: argparse.Namespace) -> Trained:
    import matplotlib

    # its figures ask for a name that matplotlib 3.9 took away
    matplotlib.cm.get_cmap = matplotlib.colormaps.get_cmap
    from overcomplete.sae import TopKSAE, train_sae
    from overcomplete.sae.losses import top_k_auxiliary_loss

    sae = TopKSAE(acts.shape[1], nb_concepts=a.d_sae, top_k=a.k, device=a.device)
    optimizer = torch.optim.Adam(sae.parameters(), lr=a.rate or README_RATE)
    quarter = max(1, a.steps // 4)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, max(0.0, (a.steps - step) / quarter))
    )
    stream = batches(acts, a.batch, a.seed)
    loader = [None] * a.steps

    class Loader:
        def __iter__(self) -> Iterator[Tensor]:
            return (next(stream) for _ in loader)

    train_sae(
        sae,
        Loader(),
        top_k_auxiliary_loss,
        optimizer,
        schedule,
        nb_epochs=1,
        monitoring=0,
        device=a.device,
    )
    sae.eval()

    def save(folder: Path) -> None:
        """The library has no saving; a config.json says what its state dict leaves out."""
        torch.save(sae.state_dict(), folder / "model.pt")
        settings = {"class": type(sae).__name__, "top_k": a.k}
        (folder / "config.json").write_text(json.dumps(settings, indent=2))

    return Trained(lambda x: sae(x)[2], save)


class Lookup(nn.Module):
    """A stand-in for the language model that sparsify hooks: token numbers to activations."""

    def __init__(self, acts: Tensor) -> None:
        super().__init__()
        self.acts, self.tap = acts, nn.Identity()
        self.device, self.base_model = acts.device, self
        self.dummy_inputs = {"input_ids": torch.zeros(1, 1, dtype=torch.long)}

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.tap(self.acts[input_ids.to(self.acts.device)])


def sparsify(acts: Tensor, a: argparse.Namespace, optimizer: str) -> Trained:
    if a.device == "cpu":
        os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # its kernels need a GPU
    from sparsify import SaeConfig, TrainConfig, Trainer

    per_row = 64
    rng = np.random.default_rng(a.seed)
    n_epochs = -(-a.steps * a.batch // len(acts))
    order = np.concatenate([rng.permutation(len(acts)) for _ in range(n_epochs)])
    rows = torch.from_numpy(order[: a.steps * a.batch]).view(-1, per_row)
    cfg = TrainConfig(
        SaeConfig(num_latents=a.d_sae, k=a.k), batch_size=a.batch // per_row, lr=a.rate or None,
        optimizer=optimizer, lr_warmup_steps=a.steps // 20, hookpoints=["tap"],
        init_seeds=[a.seed], log_to_wandb=False, save_every=10**9,
    )  # fmt: skip
    trainer = Trainer(cfg, [{"input_ids": row} for row in rows], Lookup(acts))
    trainer.save = lambda: None
    trainer.fit()
    for one in trainer.optimizers:
        if hasattr(one, "eval"):
            one.eval()  # the averaged weights of schedule-free training
    (sae,) = trainer.saes.values()
    return Trained(lambda x: sae(x).sae_out, sae.save_to_disk)


def saev(acts: Tensor, a: argparse.Namespace, model: str = "topk") -> Trained:
    from saev.training.fit import fit_dictionary

    settings: dict[str, Any] = {"optimizer": {"lr": a.rate}} if a.rate else {}
    if model != "pca":  # which has two latents for each dimension
        settings["d_sae"] = a.d_sae
    sae = fit_dictionary(
        acts.cpu(), model=model, k=a.k, seed=a.seed, max_steps=a.steps, batch_size=a.batch,
        max_norm=None, val_fraction=0.0, progress=False,
        accelerator="cpu" if a.device == "cpu" else "gpu", **settings,
    ).to(a.device)  # fmt: skip
    return Trained(lambda x: sae.decode(sae.encode(x)), sae.save_pretrained)


LIBRARIES: dict[str, Callable[[Tensor, argparse.Namespace], Trained]] = {
    "saev": saev,
    "untrained": lambda acts, a: saev(acts, a, "untrained"),
    "pca": lambda acts, a: saev(acts, a, "pca"),
    "saelens": saelens,
    "sparsify-adam": lambda acts, a: sparsify(acts, a, "adam"),
    "sparsify-signum": lambda acts, a: sparsify(acts, a, "signum"),
    "dictionary_learning": dictionary_learning,
    "overcomplete": overcomplete,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", choices=LIBRARIES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--save", type=Path)
    parser.add_argument("--took", type=Path)
    for name in ("steps", "batch", "d-sae", "k", "seed"):
        parser.add_argument(f"--{name}", type=int, required=True)
    a = parser.parse_args()
    random.seed(a.seed)
    torch.manual_seed(a.seed)
    acts, heldout = (
        torch.from_numpy(np.load(a.folder / f"{name}.npy")).float().to(a.device)
        for name in ("train", "heldout")
    )
    wall, processor = time.perf_counter(), time.process_time()
    trained = LIBRARIES[a.library](acts, a)
    took = {
        "seconds": time.perf_counter() - wall,
        "processor_seconds": time.process_time() - processor,
    }
    with torch.no_grad():
        x_hat = torch.cat([trained.reconstruct(x).float().cpu() for x in heldout.split(2048)])
    np.save(a.out, x_hat.numpy().astype(np.float16))
    if a.save is not None:
        a.save.mkdir(parents=True, exist_ok=True)
        trained.save(a.save)
    if a.took is not None:
        a.took.write_text(json.dumps(took))


if __name__ == "__main__":
    main()
