"""Whole runs of ``python -m saev.train``, from tars and from images, against what they cannot do without.

ViT-Tiny with random weights on imitated photographs, 3,072 latents; the rate is taken from the times at
which the run logged its loss, so that loading, validation, checkpoints and logging are part of it.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import mlflow
import torch

from benchmarks.speed.recording import LAYER, MODEL, BareForward, write_images
from benchmarks.speed.rows import Rounds, Row, Shape, interleaved, rate, ratio
from benchmarks.speed.steps import N_BATCHES, VARIANTS, activations, prepared, seconds_a_step
from saev.backbones import load_backbone
from saev.defaults import defaults

N_IMAGES, N_PATCHES = 512, 196
SHAPE = Shape(3072, 2048, 192)
LOGGED = 20
"""Steps between two logged losses, the default."""
STEP, FORWARD, TARS, STREAMING = "bare_step", "backbone", "from tars", "streaming"
STEPS = {TARS: 540, STREAMING: 80}
"""With two validations from tars, the default's share of them."""


@dataclass(frozen=True)
class Command:
    """A training run, started as a user starts it."""

    images: Path
    outputs: Path
    data: str

    def seconds(self) -> float:
        """A token trained, times the tokens of a round: from the first logged loss to the last."""
        n_steps = STEPS[self.data]
        choice = "tars" if self.data == TARS else "streaming"
        done = subprocess.run(
            [
                sys.executable, "-m", "saev.train", "backbone=vit_tiny", "backbone.weights=random",
                f"backbone.layer={LAYER}", "images=folder", f"images.roots=[{self.images}]",
                "images.labels=none", "model=topk", f"model.k={SHAPE.k}", f"data={choice}",
                f"data.batch_size={SHAPE.batch}", f"trainer.max_steps={n_steps}",
                "trainer.val_check_interval=250", "evaluation.fidelity=false",
                "evaluation.n_images=16", "evaluation.figures=false",
                f"paths.outputs={self.outputs}",
            ],
            capture_output=True,
            text=True,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"saev.train failed: {done.stderr.strip()[-500:]}")
        first, last, n_logged = logged_losses(self.outputs)
        return (last - first) / (n_logged - 1) / LOGGED


def logged_losses(outputs: Path) -> tuple[float, float, int]:
    """Seconds at which the newest run below ``outputs`` logged its first and last loss, and how many."""
    client = mlflow.MlflowClient(f"sqlite:///{outputs / 'mlflow.db'}")
    experiments = [one.experiment_id for one in client.search_experiments()]
    run = client.search_runs(experiments, order_by=["start_time DESC"], max_results=1)[0]
    times = sorted(m.timestamp for m in client.get_metric_history(run.info.run_id, "train/loss"))
    return times[0] / 1000, times[-1] / 1000, len(times)


def measure(folder: Path, rounds: int) -> list[Row]:
    """Rows of the bare step, the bare forward pass, and both kinds of run."""
    source = write_images(folder / "images", N_IMAGES)
    backbone = load_backbone("timm", MODEL, weights="random", layer=LAYER)
    bare = BareForward(backbone, source, defaults("train", "record")["batch_size"])
    batches = [activations(SHAPE.batch, SHAPE.d, 1 + i) for i in range(N_BATCHES)]
    module = prepared(VARIANTS["topk"], SHAPE)
    outputs = folder / "outputs"
    tokens_of_all = N_IMAGES * N_PATCHES
    found = interleaved(
        {
            STEP: lambda: seconds_a_step(module, batches, 100, "32-true"),
            FORWARD: lambda: bare.seconds() * SHAPE.batch / tokens_of_all,
            TARS: Command(folder / "images", outputs, TARS).seconds,
            STREAMING: Command(folder / "images", outputs, STREAMING).seconds,
        },
        rounds,
    )
    slower = FORWARD if sum(found[FORWARD]) > sum(found[STEP]) else STEP
    return [
        _row("train", "the bare step", found, STEP, None),
        _row("streaming", "the bare forward pass", found, FORWARD, None),
        _row("train", TARS, found, TARS, STEP),
        _row("streaming", "from images", found, STREAMING, slower),
    ]


def _row(what: str, variant: str, found: Rounds, name: str, limit: str | None) -> Row:
    value, low, high = rate(found, name, SHAPE.batch)
    of = None if limit is None else ratio(found, limit, name)
    return Row(what, variant, SHAPE.d, SHAPE.d_sae, SHAPE.k, SHAPE.batch, torch.get_num_threads(),
               value, "tokens/s", limit, of, low, high, len(found[name]))  # fmt: skip
