"""Real commands in forked children of one warm process: half a second a case in place of ten.

The process is not the one that runs the tests, whose types are checked at run time: a command must
refuse by itself what is wrong.
"""

import atexit
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NamedTuple

from tests.fakes.untracked import untracked

ROOT = Path(__file__).parents[2]
WARM = (
    "lightning", "torch", "pandas", "saev.train", "saev.record", "saev.evaluate", "saev.describe",
    "saev.compare", "saev.intervene", "saev.cli.sentence", "saev.loading", "saev.heads",
    "saev.evaluation.report", "saev.training.train_sae", "saev.backbones.timm_family", "timm",
    "datamodules.images.scenes", "datamodules.activations.heldout", "callbacks",
)  # fmt: skip
"""What most cases need, imported once."""
MOST_BYTES = 4 << 30
"""Of address space that a child may take beyond what it is forked with."""
SHOWN_BYTES = 20_000


class Outcome(NamedTuple):
    """What became of a command."""

    status: int
    """Its exit status; −9 and the like for a signal, 124 where it was out of time."""
    stdout: str
    stderr: str
    """Of both the last 20 kB."""
    peak_bytes: int
    """Largest resident memory, what the warm process brought along included."""

    @property
    def sentence(self) -> str | None:
        """The one sentence of a refusal; None where the command succeeded, or ended otherwise."""
        lines = [line for line in self.stderr.splitlines() if line.strip()]
        if self.status != 1 or not lines or "Traceback (most recent call last)" in self.stderr:
            return None
        return lines[-1]


def run_forked(argv: list[str], cwd: Path, timeout: float = 60.0) -> Outcome:
    """Runs ``python -m saev.<argv[0]> …`` in ``cwd``; without MLflow unless asked."""
    started = start_forked(argv, cwd)
    if not started.ends_within(timeout):
        os.killpg(started.pid, signal.SIGKILL)
        return started.end()._replace(status=124)
    return started.end()


class Started:
    """A command that runs; signals reach it by ``pid``, which is also that of its group."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def ends_within(self, seconds: float) -> bool:
        """Whether it has ended after so many seconds; returns as soon as it has."""
        return bool(_asked("wait", self.pid, seconds))

    def end(self) -> Outcome:
        """What became of it, once it has ended; to be asked once."""
        return Outcome(*_asked("end", self.pid))


def start_forked(argv: list[str], cwd: Path) -> Started:
    """Starts ``python -m saev.<argv[0]> …`` in ``cwd``; without MLflow unless asked."""
    return Started(_asked("start", argv, str(cwd)))


def _asked(*question: Any) -> Any:
    process = _warm_process()
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps(question) + "\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    assert answer, "the warm process is gone"
    return json.loads(answer)


@cache
def _warm_process() -> "subprocess.Popen[str]":
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("HYDRA_FULL_ERROR", None)
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    atexit.register(process.kill)
    return process


def _serve() -> None:
    """The warm process: a line of JSON in, a fork, a line of JSON out."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever is printed while importing is no answer
    for name in WARM:
        import_module(name)
    # Hydra composes the whole config a first time to look up a mode that no file of ours sets
    from hydra._internal.hydra import Hydra

    Hydra.get_mode = lambda *given, **named: None  # type: ignore[method-assign]
    running: dict[int, Child] = {}
    for line in sys.stdin:
        verb, *words = json.loads(line)
        match verb:
            case "start":
                child = Child(*words)
                running[child.pid] = child
                answer: Any = child.pid
            case "wait":
                answer = running[words[0]].wait(words[1])
            case _:
                answer = running.pop(words[0]).end()
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


class Child:
    """A fork of the warm process that runs a command."""

    def __init__(self, argv: list[str], cwd: str) -> None:
        self.out, self.err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        self.ended: tuple[int, int] | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os._exit(_run(argv, cwd, self.out, self.err))

    def wait(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while self.ended is None:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                self.ended = os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024
            elif time.monotonic() >= end:
                return False
            else:
                time.sleep(0.005)
        return True

    def end(self) -> tuple[int, str, str, int]:
        self.wait(60)
        assert self.ended is not None, "it has not ended"
        with self.out, self.err:
            status, peak = self.ended
            return status, _last(self.out), _last(self.err), peak


def _run(argv: list[str], cwd: str, out: IO[bytes], err: IO[bytes]) -> int:
    """In the child: the command as the interpreter would run it; its exit status."""
    os.setpgid(0, 0)
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    os.chdir(cwd)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MOST_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    verb, *overrides = argv
    sys.argv = [f"saev.{verb}", *untracked(verb, overrides)]
    try:
        import_module(f"saev.{verb}").main()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def _last(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - SHOWN_BYTES))
    return re.sub(r"\x1b\[[0-9;]*m", "", file.read().decode(errors="replace"))


if __name__ == "__main__":
    _serve()
