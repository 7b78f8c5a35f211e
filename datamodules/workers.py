"""How the worker processes of a data loader start, and end."""

import multiprocessing
import signal
import sys

DIE_WITH_PARENT = 1
"""``PR_SET_PDEATHSIG`` of Linux's prctl(2)."""


def start_method(num_workers: int) -> str | None:
    """The ``multiprocessing_context`` of a ``DataLoader``; None without workers.

    The method set in this process if it is one of Python's own, else the platform's default.
    joblib's processes set one of their own ("loky"), whose processes take arguments that a
    ``DataLoader`` does not give, so a loader inside a job of ``hydra/launcher=joblib`` would fail.
    """
    if num_workers == 0:
        return None
    own = multiprocessing.get_all_start_methods()  # the platform's default comes first
    found = multiprocessing.get_start_method(allow_none=True)
    return found if found in own else own[0]


LINGER_SECONDS = 3
"""So long a worker still gives batches after SIGTERM."""


def end_with_parent(worker: int = 0) -> None:
    """The ``worker_init_fn`` of a loader in training: a killed process takes its workers with it.

    They hold its connections open, so the other ranks would wait for it until each worker has seen,
    seconds later, that its parent is gone. On other systems than Linux they do.

    A signal to the whole group of processes, as a scheduler sends it, must not take the batch away at
    whose end the trainer stops: Ctrl-C is the trainer's, and SIGTERM ends a worker a little later.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(LINGER_SECONDS))
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
