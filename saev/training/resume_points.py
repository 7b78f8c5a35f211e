"""Resume points: checkpoints written whole, and what ends a training before its time.

A signal stops it at the end of a batch, with a checkpoint of just then; a training that diverges, or
another rank that dies, ends it with one sentence.
"""

import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import Tensor

from saev import stopping
from saev.errors import UserError
from saev.files import appearing_whole, full_disk
from saev.training.distributed import max_over_ranks, world_size

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"

SIGNS = ("Connection reset by peer", "Connection closed by peer", "Broken pipe")
"""What gloo says when a peer has gone; NCCL has a type of its own."""

_CONNECTOR = "lightning.pytorch.trainer.connectors.checkpoint_connector"
_TAKES_UP = re.compile("_?restore|resume_start")

VALIDATION_SECONDS = 10.0
"""So long a validation may still take once a signal has come; then it is given up, and what was trained
since the last checkpoint with it."""


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that appear whole, beside their target: a kill leaves the old one or the new one.

    Lightning's own are written below ``TMPDIR`` and moved, which between two file systems is a copy over
    the old file. Of ``last.ckpt`` the one before stays as ``previous.ckpt``.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Raises OSError with the target's name where the disk is full."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with appearing_whole(target) as partial:
                with partial.open("wb") as file:
                    torch.save(checkpoint, file)
                if target.name == LAST:
                    _keep_older(target)
        except (OSError, RuntimeError) as error:  # torch's own error stands before the disk's
            full = full_disk(error, target)
            if full is None:
                raise
            raise full from error


def _keep_older(last: Path) -> None:
    """A second name for the file, which then is replaced under its first: it has one throughout."""
    if not last.is_file():
        return
    link = last.with_name(f".{PREVIOUS}.{os.getpid()}.tmp")
    link.unlink(missing_ok=True)
    try:
        link.hardlink_to(last)
    except OSError:  # a file system without hard links
        last.replace(last.with_name(PREVIOUS))
        return
    link.replace(last.with_name(PREVIOUS))
    link.unlink(missing_ok=True)  # renaming one name of a file to another one of it does nothing


def write_whole(trainer: L.Trainer) -> None:
    """Makes the trainer's checkpoints whole ones, unless it was given a way of its own to write them."""
    strategy = trainer.strategy
    if type(strategy.checkpoint_io) is TorchCheckpointIO:
        strategy.checkpoint_io = WholeCheckpoints()


def keep_end(trainer: L.Trainer, checkpoints: Path) -> None:
    """Saves ``last.ckpt`` where training ended; the older one has no more use."""
    trainer.save_checkpoint(checkpoints / LAST)
    if trainer.is_global_zero:
        (checkpoints / PREVIOUS).unlink(missing_ok=True)


class StopAtBatchEnd(L.Callback):
    """Stops at the end of the batch in which Ctrl-C or SIGTERM came, on all ranks the same.

    Args:
        last_checkpoint: saved before; None: nothing is saved.
    """

    def __init__(self, last_checkpoint: Path | None) -> None:
        self.last_checkpoint = last_checkpoint

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        stopping.listen_again()  # Lightning has put a handler of its own before ours

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return  # a checkpoint holds no gradients
        if world_size() == 1:
            is_asked = stopping.is_asked()
        else:
            own = torch.tensor(stopping.is_asked(), dtype=torch.int32, device=pl_module.device)
            is_asked = bool(max_over_ranks(own))
        if not is_asked:
            return
        if self.last_checkpoint is not None:
            trainer.save_checkpoint(self.last_checkpoint)
            stopping.advise(how_to_go_on(self.last_checkpoint))
        raise KeyboardInterrupt

    def on_validation_batch_end(self, trainer: L.Trainer, *arguments: Any, **more: Any) -> None:
        if stopping.seconds_since_asked() > VALIDATION_SECONDS:
            if self.last_checkpoint is not None:
                stopping.advise(how_to_go_on(self.last_checkpoint))
            raise KeyboardInterrupt


class LostRank(L.Callback):
    """Says on stderr that a process has ended and how to go on, once for the whole run.

    Rank 0 says it, or where rank 0 is the one that died, rank 1. It is said as soon as the error is
    noticed: Lightning kills the processes that are left within seconds.

    Args:
        last_checkpoint: where the run's latest checkpoint lies, if there is one.
    """

    def __init__(self, last_checkpoint: Path) -> None:
        self.last_checkpoint = last_checkpoint
        self.noticed = False
        self._parent = os.getppid()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        if trainer.world_size == 1 or not is_lost_connection(exception):
            return
        self.noticed = True
        if trainer.global_rank == 0 or (trainer.global_rank == 1 and self._is_orphan()):
            sys.stderr.write(
                f"\nanother process of this run died at step {trainer.global_step}; "
                f"{how_to_go_on(self.last_checkpoint)}\n"
            )
            sys.stderr.flush()

    def _is_orphan(self) -> bool:
        # A process closes its connections a moment before it is gone.
        for _ in range(10):
            if os.getppid() != self._parent:
                return True
            time.sleep(0.2)
        return False


def is_lost_connection(error: BaseException) -> bool:
    """Whether a collective failed because of another process."""
    if isinstance(error, dist.DistBackendError | dist.DistNetworkError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def is_restoring(error: Exception) -> bool:
    """Whether it was raised while a trainer took up the state of a checkpoint."""
    if isinstance(error, UserError):
        return False
    frame = error.__traceback__
    while frame is not None:
        here = frame.tb_frame
        if here.f_globals.get("__name__") == _CONNECTOR and _TAKES_UP.match(here.f_code.co_name):
            return True
        frame = frame.tb_next
    return False


def how_to_go_on(last_checkpoint: Path) -> str:
    """What to add to the command."""
    if not last_checkpoint.exists():
        return "there is no checkpoint yet: start again"
    return f"go on with ckpt_path={last_checkpoint}"


def refuse_divergence(trainer: L.Trainer, what: str, values: Tensor) -> None:
    """Raises UserError with step, learning rate, precision and the best checkpoint unless all ``values``
    are finite. Waits for the device.

    Args:
        what: the name of these values.
    """
    # by their extremes: asking each value takes as much memory again as the values
    if torch.stack(values.detach().aminmax()).isfinite().all():
        return
    rate = trainer.optimizers[0].param_groups[0]["lr"] if trainer.optimizers else float("nan")
    raise UserError(
        f"the training diverged: {what} is not finite at step {trainer.global_step} (learning rate "
        f"{rate:.3g}, trainer.precision={trainer.precision}); lower model.optimizer.lr, or set "
        f"trainer.gradient_clip_val=1 and trainer.precision=32-true; {_best_before(trainer)}"
    )


def _best_before(trainer: L.Trainer) -> str:
    path = Path(trainer.default_root_dir) / "checkpoints" / BEST
    try:
        step = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"]
    except Exception:  # a damaged or missing file must not hide what went wrong
        return "there is no checkpoint from before"
    return f"the best checkpoint, {path}, is of step {step}"


def require_finite(sae: torch.nn.Module) -> None:
    """Raises UserError naming the first weights of a dictionary that are not finite."""
    for name, weights in sae.state_dict().items():
        if not torch.isfinite(weights).all():
            raise UserError(
                f"the dictionary is not exported: {name} is not finite, as the training diverged; lower "
                "model.optimizer.lr, or set trainer.gradient_clip_val=1 and trainer.precision=32-true"
            )
