"""How the worker processes of a data loader start."""

import multiprocessing


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
