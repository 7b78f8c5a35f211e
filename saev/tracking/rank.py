"""Rank of this process in a distributed run."""

import os


def is_main_process() -> bool:
    """True in the one process that tracks, prints and writes; read from the launcher's variables.

    torchrun sets ``RANK``, Lightning's own launcher ``NODE_RANK`` and ``LOCAL_RANK``, Slurm
    ``SLURM_PROCID``. None of them set means a single process.
    """
    if "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    names = ("NODE_RANK", "LOCAL_RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in names)
