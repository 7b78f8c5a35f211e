"""Heads on disk: a folder with ``config.json`` and ``weights.safetensors``; no pickles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from saev.errors import UserError
from saev.heads.reading import Reading
from saev.heads.trained import TrainedHead

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "weights.safetensors"
FORMAT_VERSION = 1


def save_head(head: TrainedHead, directory: str | Path) -> Path:
    """Writes the folder; each file appears whole or not at all. Returns the folder."""
    from safetensors.torch import save

    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "format_version": FORMAT_VERSION,
        "kind": head.kind,
        "features": head.features,
        "reading": head.reading.to_dict(),
        "class_names": head.class_names,
        "backbone": head.backbone,
        "logit_scale": head.logit_scale,
        "recipe": head.recipe,
    }
    tensors = {name: t.detach().cpu().contiguous() for name, t in head.state_dict().items()}
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    # the config comes last: a folder that has one is complete
    for name, content in ((WEIGHTS_NAME, save(tensors)), (CONFIG_NAME, text.encode())):
        partial = folder / f"{name}.partial"
        partial.write_bytes(content)
        partial.replace(folder / name)
    return folder


def load_head(directory: str | Path) -> TrainedHead:
    """Reads what ``TrainedHead.save`` wrote; its logits equal the saved head's bit for bit.

    Raises:
        UserError: nothing there, a damaged file, another format, tensors that contradict the config.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(directory)
    config = _read_config(folder)
    path = folder / WEIGHTS_NAME
    if not path.is_file():
        raise UserError(f"{folder} holds no {WEIGHTS_NAME}; train the head again.")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); train the head again.") from error
    try:
        reading = Reading.from_dict(config["reading"])
        head = TrainedHead(
            config["kind"],
            reading,
            config["class_names"],
            config["backbone"],
            tensors["weight"],
            tensors["bias"],
            config["logit_scale"],
            config["recipe"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder} holds a {CONFIG_NAME} and a {WEIGHTS_NAME} that do not make a head "
            f"({error}); train the head again."
        ) from error
    return head.eval()


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_NAME
    if not path.is_file():
        inside = folder / "head"
        hint = (
            f"give {inside}"
            if (inside / CONFIG_NAME).is_file()
            else "give the head/ folder of a run of saev.train"
        )
        raise UserError(f"{folder} holds no {CONFIG_NAME} of a head; {hint}.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable JSON; train the head again.") from error
    version = config.get("format_version") if isinstance(config, dict) else None
    if version != FORMAT_VERSION or "reading" not in config:
        raise UserError(
            f"{path} is not the config of a head in format {FORMAT_VERSION} (it has {version}); "
            "give the head/ folder of a run of saev.train."
        )
    return config
