"""``python -m saev.explore`` on the command line."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def start(folder: Path, *overrides: str, before: str = "") -> subprocess.Popen[str]:
    code = f"import runpy\n{before}\nrunpy.run_module('saev.explore', run_name='__main__')"
    given = [*overrides, f"paths.outputs={folder}", f"hydra.run.dir={folder / 'run'}"]
    return subprocess.Popen(
        [sys.executable, "-c", code, *given], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def refused(folder: Path, *overrides: str, before: str = "") -> str:
    process = start(folder, *overrides, before=before)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 1, said
    assert len(said.strip().splitlines()) == 1, said
    return said


def test_without_a_dictionary_it_says_make_demo(tmp_path: Path) -> None:
    assert "make demo" in refused(tmp_path)


def test_without_gradio_it_names_the_extra(tmp_path: Path) -> None:
    gone = "import sys; sys.modules['gradio'] = None"
    assert "saev-lightning[app]" in refused(tmp_path, f"sae={tmp_path}", before=gone)


def test_a_taken_port_is_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port={port} cannot be used" in refused(tmp_path, "sae=x", f"port={port}")


@pytest.mark.parametrize("wrong", ["port=70000", "port=-1", "n_images=0", "host=''"])
def test_values_out_of_range_are_refused(tmp_path: Path, wrong: str) -> None:
    assert wrong.partition("=")[0] in refused(tmp_path, wrong)


@pytest.mark.slow
@pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_a_free_port_serves_and_leaves_nothing(
    tmp_path: Path, sae_dir: Path, ended_by: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest dictionary of the outputs folder is opened where none is named."""
    run, temporary = tmp_path / "runs" / "train" / "demo", tmp_path / "temporary"
    run.mkdir(parents=True)
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    (run / "sae").symlink_to(sae_dir)
    process = start(tmp_path, "port=0", "n_images=8")
    try:
        assert process.stdout is not None
        url = ""
        while not url:
            line = process.stdout.readline()
            assert line, process.communicate(timeout=60)
            url = next((word for word in line.split() if word.startswith("http://127.0.0.1:")), "")
        with urllib.request.urlopen(url, timeout=60) as answer:
            assert answer.status == 200
        assert list(temporary.glob("saev-explorer-*"))
        process.send_signal(ended_by)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 128 + ended_by and "Traceback" not in said
        assert not list(temporary.glob("saev-explorer-*"))
    finally:
        process.kill()
