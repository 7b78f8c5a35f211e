"""The real commands in forked children of this warm process, with something that goes wrong in them.

``attack(["train", …], folder, inject)`` does what ``python -m saev.train …`` does, after ``inject()`` has
been called in the child; ``watch(child)`` is called in this process while the child runs, every few
milliseconds, and may send it signals.
"""

import os
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from tests.fakes.commands import ALONE, in_process
from tests.fakes.forked import WARM

MOST_BYTES = 4 * 2**30
"""Of address space beyond what the parent has."""


FIT = (*ALONE, "evaluation.fidelity=false", "callbacks.progress=null", "callbacks.firing=null",
       "callbacks.last.every_n_train_steps=1")  # fmt: skip
"""A training of four steps with a checkpoint of each."""


class End(NamedTuple):
    """How a command ended."""

    status: int
    """Exit status; −n where signal n ended it."""
    stdout: str
    stderr: str
    peak_bytes: int
    """Largest resident memory, what the parent had at the fork included."""
    ran_out: bool
    """Whether it was killed because it ran too long."""

    @property
    def said(self) -> list[str]:
        """Lines of stderr."""
        return [line for line in self.stderr.splitlines() if line.strip()]


def nothing(*_: object) -> None:
    """Goes wrong."""


def attack(
    argv: list[str],
    cwd: Path,
    inject: Callable[[], None] = nothing,
    watch: Callable[[int], None] = nothing,
    timeout: float = 120.0,
) -> End:
    """Runs ``python -m saev.<argv[0]>`` with the other words as overrides; without MLflow unless one of
    them says ``logger``."""
    _warm(argv[0])
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            _child(argv, cwd, inject, out.fileno(), err.fileno())
        status, peak, ran_out = _wait(child, watch, timeout)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    return End(status, *texts, peak, ran_out)


@cache
def _warm(verb: str) -> None:
    """Imports what the verb will need, which each child would do again."""
    for name in (*WARM, f"saev.{verb}"):
        import_module(name)


def assert_one_sentence(end: End, *words: str) -> None:
    """It failed with one line on stderr that has these words, and no traceback anywhere."""
    assert not end.ran_out, end.stderr[-2000:]
    assert end.status == 1, (end.status, end.stderr[-2000:])
    assert "Traceback" not in end.stderr + end.stdout, end.stderr[-3000:]
    assert len(end.said) == 1, end.stderr[-2000:]
    for word in words:
        assert word in end.said[0], end.said[0]


def assert_good(end: End, *words: str) -> None:
    """It ended well, without a traceback; its output or its warnings have these words."""
    assert not end.ran_out, end.stderr[-2000:]
    assert end.status == 0, (end.status, end.stderr[-3000:])
    assert "Traceback" not in end.stderr + end.stdout, end.stderr[-3000:]
    for word in words:
        assert word in end.stderr + end.stdout, end.stderr[-2000:]


def at_step(step: int, act: Callable[[], object]) -> Callable[[], None]:
    """Does something when training has made so many steps."""

    def inject() -> None:
        from saev.training.resume_points import StopAtBatchEnd

        real = StopAtBatchEnd.on_train_batch_end

        def hook(self: Any, trainer: Any, *arguments: Any, **more: Any) -> None:
            if trainer.global_step == step:
                act()
            real(self, trainer, *arguments, **more)

        StopAtBatchEnd.on_train_batch_end = hook  # type: ignore[method-assign]

    return inject


def _wait(child: int, watch: Callable[[int], None], timeout: float) -> tuple[int, int, bool]:
    end = time.monotonic() + timeout
    ran_out = False
    while True:
        pid, state, usage = os.wait4(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(state), usage.ru_maxrss * 1024, ran_out
        if not ran_out and time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            ran_out = True
        watch(child)
        time.sleep(0.002)


def _child(argv: list[str], cwd: Path, inject: Callable[[], None], out: int, err: int) -> NoReturn:
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
        for name in ("HYDRA_FULL_ERROR", "SAEV_SHORT_ERRORS", "PYTEST_CURRENT_TEST"):
            os.environ.pop(name, None)
        warnings.simplefilter("ignore")  # pytest makes errors of them
        inject()
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
