"""The real commands in forked children of this warm process: a third of a second instead of ten.

``run_forked(["train", "record.batch_size=0"], folder, timeout=30)`` does what ``python -m saev.train
record.batch_size=0`` does in that folder, and says how it ended.
"""

import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, NoReturn

from tests.fakes.commands import in_process

WARM = (
    "saev.training.train_sae", "saev.training.train_head", "saev.evaluation.report", "callbacks.sweep",
    "callbacks.dictionary_health", "callbacks.firing_figure", "callbacks.rng_state", "mlflow",
    "callbacks.throughput", "callbacks.ema", "callbacks.resample", "saev.atlas.description",
    "saev.atlas.pages.overview", "saev.comparison.comparison", "saev.intervention.report.from_config",
)  # fmt: skip
"""What commands import late; here once for all children."""

MOST_BYTES = 6 * 2**30
"""Of address space beyond what the parent has; enough to see a bomb, not to hurt the machine."""


class Outcome(NamedTuple):
    """How a command ended."""

    status: int
    """Exit status; −n where signal n ended it, −14 where it ran too long."""
    stdout: str
    stderr: str
    peak_bytes: int
    """Largest resident memory, what the parent had at the fork included."""

    @property
    def said(self) -> list[str]:
        """Lines of stderr."""
        return [line for line in self.stderr.splitlines() if line.strip()]


def run_forked(argv: list[str], cwd: Path, timeout: float, *, warm: bool = True) -> Outcome:
    """Runs ``python -m saev.<argv[0]>`` with the other words as overrides, in ``cwd``.

    Without MLflow unless an override says ``logger``. The child is killed after ``timeout`` seconds.
    ``warm``: what the command imports late is there already, which takes seconds the first time.
    """
    import_module(f"saev.{argv[0]}")
    if warm:
        for name in WARM:
            import_module(name)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            _child(argv, cwd, out.fileno(), err.fileno())
        status, peak = _wait(child, timeout)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    return Outcome(status, *texts, peak)


def _wait(child: int, timeout: float) -> tuple[int, int]:
    """Exit status and peak memory in bytes."""
    end = time.monotonic() + timeout
    killed = False
    while True:
        pid, state, usage = os.wait4(child, os.WNOHANG)
        if pid:
            status = -signal.SIGALRM if killed else os.waitstatus_to_exitcode(state)
            return status, usage.ru_maxrss * 1024
        if not killed and time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            killed = True
        time.sleep(0.01)


def _child(argv: list[str], cwd: Path, out: int, err: int) -> NoReturn:
    status = 1
    try:
        os.setpgid(0, 0)
        for number, file in ((1, out), (2, err)):
            os.dup2(file, number)
        sys.stdin = open(os.devnull)  # noqa: PTH123, SIM115
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        here = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (here + MOST_BYTES, here + MOST_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.chdir(cwd)
        os.environ.pop("HYDRA_FULL_ERROR", None)
        code = in_process(*argv)
        if isinstance(code, str):  # the interpreter prints it and ends with 1
            sys.stderr.write(code + "\n")
        else:
            status = code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
