"""The folder of a steered model: ``config.json`` and ``edits.safetensors``; no pickles."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from saev.errors import UserError
from saev.files import (
    BACKBONE_IDENTITY,
    a_list,
    a_text,
    a_whole,
    an_object,
    check_fields,
    or_null,
    plain_data,
    plain_object,
    read_json,
)

CONFIG_NAME = "config.json"
TENSORS_NAME = "edits.safetensors"
FORMAT_VERSION = 1
KIND = "steering"
FIELDS = an_object(
    {
        "format_version": a_whole(1),
        "kind": a_text(20),
        "backbone": BACKBONE_IDENTITY,
        "taps": a_list(
            an_object(
                {
                    "layer": a_whole(0, 10_000),
                    "tokens": plain_data,
                    "mode": a_text(20),
                    "edits": a_list(plain_object, 1),
                    "largest_from": or_null(a_text()),
                },
                more=True,
            ),
            1,
        ),
    },
    more=True,
)
"""Of ``config.json``, whoever wrote it; the edits are checked where they are made."""


def write_steering(folder: Path, content: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Writes both files; each appears whole or not at all."""
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    config = {"format_version": FORMAT_VERSION, "kind": KIND, **content}
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    # copies: safetensors refuses two names for one memory
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    # the config comes last: a folder that has one is complete
    for name, data in ((TENSORS_NAME, save(plain)), (CONFIG_NAME, text.encode())):
        partial = folder / f"{name}.partial"
        partial.write_bytes(data)
        partial.replace(folder / name)


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and tensors; raises UserError where they are not there, damaged or of another format."""
    return _read_config(folder / CONFIG_NAME), _read_tensors(folder / TENSORS_NAME)


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path.parent} holds no {CONFIG_NAME} of a steered model")
    config = read_json(path, "save the steered model again")
    if config.get("kind") != KIND:
        raise UserError(
            f"{path} is not the config of a steered model; give a folder of Steering.save"
        )
    if config.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path} has format version {config.get('format_version')} and this saev reads "
            f"{FORMAT_VERSION}; use the saev that wrote it"
        )
    check_fields(config, FIELDS, str(path), "save the steered model again")
    return config


def _read_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"{path} is damaged or gone ({error}); save the steered model again"
        ) from error
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            raise UserError(
                f"{path} has values in {name} that are no finite floats; save the steered model again"
            )
    return tensors
