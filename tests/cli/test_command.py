"""The command wrapper, inside the test process and on a real command line."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from saev.cli.command import folder_name, refuse_multirun_ddp

APP = Path(__file__).parents[1] / "fakes" / "app"


def line(*arguments: str) -> list[str]:
    return [sys.executable, str(APP / "tiny.py"), "--config-dir", str(APP), *arguments]


def clean_environment(**variables: str) -> dict[str, str]:
    drop = ("HYDRA_FULL_ERROR", "SAEV_SHORT_ERRORS", "LOCAL_RANK", "RANK")
    return {k: v for k, v in os.environ.items() if k not in drop} | variables


def run(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        line(*arguments), cwd=folder, env=clean_environment(**variables),
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


class Done(NamedTuple):
    """What ``subprocess.run`` tells of a process."""

    returncode: int
    stdout: str
    stderr: str


Start = Callable[..., Done]


@pytest.fixture(params=["here", pytest.param("process", marks=pytest.mark.slow)])
def start(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, capsys, tmp_path: Path
) -> Start:
    """Runs the command in ``tmp_path``: inside the test process, and on a real command line."""

    def in_process(*arguments: str) -> Done:
        done = run(tmp_path, *arguments)
        return Done(done.returncode, done.stdout, done.stderr)

    def here(*arguments: str) -> Done:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", line(*arguments)[1:])
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(APP)
        code: str | int | None = 0
        try:
            import_module("tiny").main()
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        if isinstance(code, str):  # the interpreter prints it and ends with 1
            return Done(1, out, f"{err}{code}\n")
        return Done(code or 0, out, err)

    for name in ("HYDRA_FULL_ERROR", "SAEV_SHORT_ERRORS", "LOCAL_RANK", "RANK"):
        monkeypatch.delenv(name, raising=False)
    return here if request.param == "here" else in_process


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("fail=user", "the photo cat.jpg is broken: remove it"),
        ("fail=full", "the disk is full at shard.tar: free some space"),
        ("fail=needed", "needed is not set: add needed=… to the command"),
        ("k=0", "part: k must be at least 1, got 0"),
        ("kk=2", "Could not override 'kk': Key 'kk' is not in struct"),
        ("+part.z=3", "part: Part.__init__() got an unexpected keyword argument 'z'"),
        ("logger=nope", "there is no logger=nope: choose one of mlflow, none"),
        ("x=[1", "no viable alternative at input"),
    ],
)
def test_what_the_user_can_act_on_is_one_line(argument: str, expected: str, start: Start) -> None:
    done = start(argument)
    assert done.returncode == 1
    assert done.stderr.startswith(expected)
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.slow
def test_the_traceback_is_there_on_request_and_for_bugs(tmp_path: Path) -> None:
    full = run(tmp_path, "k=0", HYDRA_FULL_ERROR="1")
    assert full.returncode == 1 and "Traceback" in full.stderr and "got 0" in full.stderr
    bug = run(tmp_path, "fail=bug")
    assert bug.returncode == 1 and "Traceback" in bug.stderr and "a bug" in bug.stderr


def test_a_good_end_leaves_its_files_under_outputs(start: Start, tmp_path: Path) -> None:
    done = start("x=2")
    assert (done.returncode, done.stderr) == (0, "")
    (folder,) = (tmp_path / "outputs/runs/tiny").iterdir()
    assert (folder / ".hydra/overrides.yaml").read_text() == "- x=2\n"
    assert (folder / "tiny.log").is_file()


@pytest.mark.slow
def test_a_failing_member_is_reported_and_the_others_go_on(tmp_path: Path) -> None:
    done = run(tmp_path, "-m", "k=0,3", "x=1,2")
    assert done.returncode == 1
    assert done.stdout.count("part: k must be at least 1, got 0\n") == 2
    assert done.stderr.splitlines()[-1] == "part: k must be at least 1, got 0"
    assert "Traceback" not in done.stderr
    (sweep,) = (tmp_path / "outputs/sweeps/tiny").iterdir()
    members = sorted(path.name for path in sweep.iterdir() if path.is_dir())
    assert members == ["0_k=0,x=1", "1_k=0,x=2", "2_k=3,x=1", "3_k=3,x=2"]


def test_a_sweep_over_several_devices_is_refused(start: Start) -> None:
    done = start("-m", "k=1", "trainer.devices=2")
    assert done.returncode == 1
    assert "add trainer.devices=1" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_from_outside(number: int, tmp_path: Path) -> None:
    process = subprocess.Popen(
        line("fail=wait"), cwd=tmp_path, env=clean_environment(), stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert stderr == "stopped before the end\n"


def test_devices_are_free_outside_a_sweep() -> None:
    refuse_multirun_ddp(OmegaConf.create({"trainer": {"devices": 8}}))


def test_folder_names_are_safe_and_short() -> None:
    assert folder_name("model.k=32,seed=0") == "model.k=32,seed=0"
    assert "/" not in folder_name("images.roots=[/a/b,/c]")
    assert len(folder_name("x=" + "y" * 500)) == 80
