"""Eight dictionaries on one stream, against one and against eight runs one after the other.

Activations of ViT-Tiny's width that are made up; TopK with k from 8 to 128, two seeds, 3,072 latents.
"""

import itertools
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.speed.loading import write_tars
from benchmarks.speed.rows import Row, interleaved, timed
from benchmarks.speed.steps import activations
from saev.cli.lockstep import Lockstep
from saev.training.fit import fit_dictionary

WIDTH, D_SAE, BATCH, N_STEPS = 192, 3072, 4096, 40
KS, SEEDS = (8, 16, 32, 128), (0, 1)
ONE, SHARED, APART = "one member", "eight members, shared", "eight runs"


@dataclass(frozen=True)
class Member:
    """A dictionary to train."""

    folder: Path
    k: int
    seed: int

    def train(self) -> None:
        """From tars to a dictionary, reading included."""
        fit_dictionary(
            self.folder, k=self.k, seed=self.seed, d_sae=D_SAE, max_steps=N_STEPS, batch_size=BATCH,
            accelerator="cpu", precision="32-true", progress=False,
        )  # fmt: skip


def members(folder: Path) -> list[Member]:
    """All combinations."""
    return [Member(folder, k, seed) for k, seed in itertools.product(KS, SEEDS)]


def shared_run(all_of_them: list[Member]) -> float:
    """Seconds of all members in lockstep."""
    return timed(lambda: Lockstep().run([one.train for one in all_of_them]))


def measure(folder: Path, rounds: int) -> list[Row]:
    """Seconds of one, of eight on one stream, and of eight one after the other."""
    acts = activations(64 * 196, WIDTH, 0).to(torch.float16).numpy()
    write_tars(folder, 1024, np.split(acts, 64), n_heldout=64)
    every = members(folder)
    found = interleaved(
        {
            ONE: lambda: timed(every[4].train),
            SHARED: lambda: shared_run(every),
            APART: lambda: timed(lambda: [one.train() for one in every]),
        },
        rounds,
    )
    rows = []
    for name, rounds_of in found.items():
        seconds = sorted(rounds_of)
        ratios = sorted(a / b for a, b in zip(rounds_of, found[ONE], strict=True))
        rows.append(
            Row(
                "sweep", name, WIDTH, D_SAE, None, BATCH, torch.get_num_threads(),
                seconds[len(seconds) // 2], "s", None if name == ONE else "one_member",
                None if name == ONE else ratios[len(ratios) // 2], seconds[0], seconds[-1], len(seconds),
            )
        )  # fmt: skip
    shutil.rmtree(folder)
    return rows
