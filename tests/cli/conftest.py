"""Running the real commands, and what they left: made once, read by many tests."""

from pathlib import Path

import pytest
from PIL import Image

from tests.fakes.commands import SMALL, TINY, Run, in_process
from tests.fakes.once import Once


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs ``python -m saev.<name>`` with overrides; everything is written under ``tmp_path``."""

    def call(name: str, *overrides: str) -> str | int | None:
        return in_process(name, f"paths.outputs={tmp_path / 'outputs'}", *overrides)

    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    return call


@pytest.fixture(scope="session")
def trained(once: Once) -> Path:
    """A recording of a few scenes in ``outputs``, a dictionary trained on it in ``run``."""

    def fill(folder: Path) -> None:
        outputs = f"paths.outputs={folder / 'outputs'}"
        assert in_process("record", outputs, *TINY) is None
        assert in_process("train", outputs, *TINY, f"hydra.run.dir={folder / 'run'}") is None

    return once("trained", fill)


@pytest.fixture(scope="session")
def described(sae_dir: Path, once: Once) -> Path:
    """The finished atlas of ``sae_dir``."""

    def fill(folder: Path) -> None:
        assert in_process("describe", f"sae={sae_dir}", f"hydra.run.dir={folder}", *SMALL) is None

    return once("described", fill)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of 8 small pictures in two classes."""
    root = tmp_path / "photos"
    for number in range(8):
        folder = root / ("red" if number % 2 else "blue")
        folder.mkdir(parents=True, exist_ok=True)
        colour = (200, 20 * number, 0) if number % 2 else (0, 20 * number, 200)
        Image.new("RGB", (40, 32), colour).save(folder / f"{number}.jpg")
    return root


@pytest.fixture
def on_photos(photos: Path) -> tuple[str, ...]:
    """Overrides that use them."""
    return ("images=folder", f"images.roots=[{photos}]", "images.val_fraction=0.4")
