"""What every test needs of its process, and what is made once for a whole run of tests."""

import gc
import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

from tests.fakes.once import Once, once_below

# a shell's background job ignores Ctrl-C, and so would every command that a test starts from it
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("saev", deadline=None)  # a busy machine is no fault of the code
settings.load_profile("saev")

LONGEST_FIRST = (
    "cli",
    "real",
    "intervention",
    "training",
    "atlas",
    "callbacks",
    "backbones",
    "tracking",
)
"""Rooms whose files take longest: workers take whole files in turn, and the short ones fill up."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        if item.path.stem == "test_docs_python":
            return -1  # the tour alone takes two minutes
        room = item.path.parent.name
        return LONGEST_FIRST.index(room) if room in LONGEST_FIRST else len(LONGEST_FIRST)

    items.sort(key=place)  # stable: files and tests keep their order within a room


def pytest_collection_finish(session: pytest.Session) -> None:
    """What was imported stays: walking over it in every collection costs seconds of a run."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session: pytest.Session) -> None:
    gc.unfreeze()  # extensions that count their objects at the end would call them leaked


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    root = tmp_path_factory.getbasetemp()  # that of a worker lies in that of the run
    return once_below((root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "shared")


@pytest.fixture(scope="session")
def sae_dir(once: Once) -> Path:
    """A dictionary of random atoms on the micro model; read only."""
    from tests.fakes.dictionary import make_sae

    return once("sae", lambda folder: make_sae(folder / "sae", seed=0)) / "sae"
