"""Real commands in forked children of one warm process: half a second a case in place of ten.

The process is not the one that runs the tests, whose types are checked at run time: a command must
refuse by itself what is wrong.
"""

import atexit
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import IO, NamedTuple

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
    process = _warm_process()
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps([argv, str(cwd), timeout]) + "\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    assert answer, "the warm process is gone"
    return Outcome(*json.loads(answer))


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
    for line in sys.stdin:
        argv, cwd, timeout = json.loads(line)
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            child = os.fork()
            if child == 0:
                os._exit(_run(argv, cwd, out, err))
            status, peak = _wait(child, timeout)
            answers.write(json.dumps([status, _last(out), _last(err), peak]) + "\n")
            answers.flush()


def _wait(child: int, timeout: float) -> tuple[int, int]:
    end = time.monotonic() + timeout
    out_of_time = False
    while True:
        pid, status, usage = os.wait4(child, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            return (124 if out_of_time else code), usage.ru_maxrss * 1024
        if time.monotonic() > end and not out_of_time:
            out_of_time = True
            os.kill(child, 9)
        time.sleep(0.005)


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
