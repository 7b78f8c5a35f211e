"""A dictionary or head whose file names images that are not to be opened: every command refuses."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.commands import Run

EXPORTS = Path(__file__).parents[1] / "data" / "exports"
HOSTILE = {
    "pandas.read_pickle": {"_target_": "pandas.read_pickle", "filepath_or_buffer": "x.pkl"},
    "pipe:touch ran": {
        "_target_": "datamodules.images.WebDatasetImages",
        "urls": "pipe:touch ran",
        "cache_dir": "cache",
    },
    "http://127.0.0.1:9/${oc.env:SECRET}.tar": {
        "kind": "webdataset",
        "urls": "http://127.0.0.1:9/${oc.env:SECRET}.tar",
    },
}


def folder_with(kind: str, images: dict[str, Any], into: Path) -> Path:
    """A copy of an exported dictionary or head that names these images."""
    shutil.copytree(EXPORTS / kind, into)
    path = into / "config.json"
    config = json.loads(path.read_text())
    (config["recipe"] if kind == "head" else config)["images"] = images
    path.write_text(json.dumps(config))
    return into


CASES = [("evaluate", name) for name in HOSTILE]
CASES += [(verb, "pipe:touch ran") for verb in ("describe", "intervene", "compare", "head")]
"""The commands share the function that refuses, which has tests of its own."""


@pytest.mark.parametrize(("verb", "name"), CASES)
def test_it_is_refused_by_name(
    name: str, verb: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECRET", "hunter2")
    evil = folder_with("head" if verb == "head" else "topk", HOSTILE[name], tmp_path / "evil")
    overrides = {
        "evaluate": [f"sae={evil}"],
        "describe": [f"sae={evil}"],
        "intervene": [f"sae={evil}", "concepts=all", "head=attributes"],
        "compare": [f"saes=[{evil},{evil}]", "names=[a,b]"],
        "head": [f"sae={EXPORTS / 'topk'}", f"head={evil}"],
    }[verb]
    command = "evaluate" if verb == "head" else verb
    said = run(command, *overrides, "trainer.accelerator=cpu")
    assert isinstance(said, str) and name in said and "hunter2" not in said
    assert not (tmp_path / "ran").exists() and not (tmp_path / "cache").exists()
