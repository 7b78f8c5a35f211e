"""Lost rank: one sentence when another process of the run has died."""

import os
import sys
import time
from pathlib import Path

import lightning as L
import torch.distributed as dist

SIGNS = ("Connection reset by peer", "Connection closed by peer", "Broken pipe")
"""What gloo says when a peer has gone; NCCL has a type of its own."""


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


def how_to_go_on(last_checkpoint: Path) -> str:
    """What to add to the command."""
    if not last_checkpoint.exists():
        return "there is no checkpoint yet: start again"
    return f"go on with ckpt_path={last_checkpoint}"
