"""A command small enough to test what stands around every command."""

import errno
import os
import signal
import time
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from saev.cli.command import command, refuse_multirun_ddp
from saev.errors import UserError
from saev.tracking import status_of


class Part:
    def __init__(self, k: int) -> None:
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")


@command("tiny")
def main(cfg: DictConfig) -> float:
    refuse_multirun_ddp(cfg)
    tracking = instantiate(cfg.logger)
    tracking.start(f"x={cfg.x} k={cfg.k}", {}, {"x": cfg.x, "k": cfg.k})
    try:
        tracking.log_metrics({"val/x": cfg.x})
        instantiate(cfg.part)
        act(cfg)
    except BaseException as error:
        tracking.finish(status_of(error))
        raise
    tracking.finish("FINISHED")
    return cfg.x


def act(cfg: DictConfig) -> None:
    match cfg.fail:
        case None:
            return
        case "needed":
            float(cfg.needed)
        case "user":
            raise UserError("the photo cat.jpg is\nbroken: remove it")
        case "bug":
            raise KeyError("a bug")
        case "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "shard.tar")
        case "wait":
            Path("ready").touch()
            time.sleep(60)
        case "terminate":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)


if __name__ == "__main__":
    main()
