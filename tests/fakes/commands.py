"""What the command-line tests share."""

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra

from tests.fakes.untracked import untracked

Run = Callable[..., str | int | None]
"""Command name and overrides → exit status: None or 0 for success, the sentence on failure."""

TINY = (
    "images.n_images=24",
    "record.images_per_shard=8",
    "model.expansion=2",
    "model.k=8",
    "data.batch_size=256",
    "data.reservoir_tokens=1024",
    "trainer.accelerator=cpu",
    "trainer.max_steps=4",
    "trainer.val_check_interval=2",
    "trainer.log_every_n_steps=1",
)
"""A training run of a few seconds."""

ALONE = (*TINY, "record.num_workers=0", "data.num_workers=0", "evaluation.num_workers=0")
"""The same without worker processes, for what ends before or by its data."""

SMALL = (
    "atlas.images_per_part=8",
    "atlas.n_permutations=39",
    "atlas.n_map_permutations=9",
    "atlas.baseline_images=8",
    "naming.n_images=2",
    "naming.n_latents=12",
    "naming.n_random=8",
    "trainer.accelerator=cpu",
    "pages.n_latents=8",
    "pages.contact_sheets=false",
    "pages.attributions=2",
)
"""An atlas of a few seconds."""

HYPOTHESIS: dict[str, Any] = {
    "concept": ["shape/circle", "colour/red"],
    "selector": {"by": "f1", "n": 1},
    "images": {"discovery": "train", "test": "heldout"},
    "alpha": 0.2,
    "directions": 4,
    "untrained": 1,
    "shuffles": 1,
    "calibration": 1,
    "support": {"n_discovery_units": 1, "n_test_units": 1},
}
"""An experiment of a few seconds."""


def in_process(name: str, *overrides: str) -> str | int | None:
    """Runs ``python -m saev.<name>`` here: a second instead of ten. Without MLflow unless asked.

    Hydra composes the whole config a first time to look up ``hydra.mode``, which no file of ours
    sets; without that a command that is refused ends in half the time.
    """
    GlobalHydra.instance().clear()
    argv = [f"saev.{name}", *untracked(name, overrides)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", argv)
        patch.setattr(Hydra, "get_mode", lambda *args, **kwargs: None)
        try:
            import_module(f"saev.{name}").main()
        except SystemExit as end:
            return end.code
    return None


def assert_sentence(status: str | int | None, *words: str) -> None:
    assert isinstance(status, str), f"no sentence: {status!r}"
    assert "Traceback" not in status
    assert "\n" not in status.strip(), status
    for word in words:
        assert word in status, status
