"""Running the real commands inside the test process: a second a call instead of ten."""

import sys
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from tests.fakes.commands import Run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs ``python -m saev.<name>`` with overrides; everything is written under ``tmp_path``."""

    def call(name: str, *overrides: str) -> str | int | None:
        from importlib import import_module

        GlobalHydra.instance().clear()
        argv = [f"saev.{name}", f"paths.outputs={tmp_path / 'outputs'}", *overrides]
        if not any(o.startswith(("logger=", "logger.")) for o in overrides):
            argv.append("logger=none")
        monkeypatch.setattr(sys, "argv", argv)
        try:
            import_module(f"saev.{name}").main()
        except SystemExit as end:
            return end.code
        return None

    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    return call


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
