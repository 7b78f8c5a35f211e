"""Weights and settings of others on disk, opened as plain data.

Nothing here can execute code: pickles are read as tensors and plain values or not at all.
"""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from saev.errors import UserError, first_line
from saev.files import parse_json, read_whole

CONFIGS = ("cfg.json", "config.json", "config.yaml")
PICKLES = (".pt", ".pth", ".ckpt", ".bin")
NOT_WEIGHTS = ("sparsity.safetensors", "expected.safetensors", "state.pt", "lr_scheduler.pt")
"""Files beside the weights that some libraries leave."""
OPTIMIZER = ("optimizer_", "rank_")
MOST_HEADER = 1 << 20

CONVERTER = "python -m saev.interop.unpickle"


@dataclass(frozen=True)
class OpenFiles:
    """What lies at a place, opened."""

    where: str
    """Names the weights in sentences."""
    weights_name: str
    tensors: Mapping[str, Any]
    """By name; of a file that holds settings as well, without them."""
    config: Mapping[str, Any] = field(default_factory=dict)
    header: Mapping[str, Any] | None = None
    """The line of JSON before the weights."""
    inside: bool = False
    """Whether the settings lay in the same file as the weights."""
    beside: Mapping[str, Any] = field(default_factory=dict)
    """What else lay in the file of the weights."""


def find(path: Path) -> OpenFiles:
    """The weights and settings at a file, or in a folder.

    Raises:
        UserError: nothing there, several of either, a damaged file, pickled objects.
    """
    if not path.is_file() and not path.is_dir():
        raise UserError(f"{path} is neither a file nor a folder; give the folder of a dictionary.")
    weights = path if path.is_file() else _only(_weights_in(path), path, "weights")
    if weights.suffix not in (".safetensors", *PICKLES):
        raise UserError(
            f"{weights} has none of the endings of weights (.safetensors, {', '.join(PICKLES)})."
        )
    config_path = _config_beside(weights)
    config = {} if config_path is None else _config(config_path)
    if weights.suffix == ".safetensors":
        return OpenFiles(str(weights), weights.name, _safetensors(weights), config)
    header, content = _pickle(weights)
    tensors, inner, beside = _split(content, weights)
    both = {**inner, **config}
    return OpenFiles(str(weights), weights.name, tensors, both, header, bool(inner), beside)


def _weights_in(folder: Path) -> list[Path]:
    files = sorted(one for one in folder.iterdir() if one.is_file())
    return [
        one
        for one in files
        if one.suffix in (".safetensors", *PICKLES)
        and one.name not in NOT_WEIGHTS
        and not one.name.startswith((".", *OPTIMIZER))
    ]


def _only(found: list[Path], folder: Path, what: str) -> Path:
    if not found:
        raise UserError(
            f"{folder} holds no {what} of a dictionary; give the folder or the file of one."
        )
    if len(found) > 1:
        names = ", ".join(one.name for one in found[:4])
        raise UserError(f"{folder} holds several {what} ({names}); give one file of them.")
    return found[0]


def _config_beside(weights: Path) -> Path | None:
    found = [weights.with_name(name) for name in CONFIGS if weights.with_name(name).is_file()]
    if not found and weights.parent.name == "checkpoints":  # of dictionary_learning
        found = [one for one in [weights.parents[1] / "config.json"] if one.is_file()]
    if len(found) > 1:
        names = " and ".join(one.name for one in found)
        raise UserError(
            f"{weights.parent} holds {names}, of two layouts; keep the one that belongs to {weights.name}."
        )
    return found[0] if found else None


def _config(path: Path) -> dict[str, Any]:
    text = read_whole(path, "get the dictionary again")
    if path.suffix == ".json":
        return parse_json(text, str(path), "get the dictionary again")
    import yaml

    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is no YAML ({first_line(error)}); get it again.") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no key: value pairs; get the dictionary again.")
    return values


def _safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is cut off or damaged; get the dictionary again.") from error


def _pickle(path: Path) -> tuple[dict[str, Any] | None, Any]:
    """The header, where the file begins with a line of JSON, and what torch finds after it."""
    header = None
    with path.open("rb") as file:
        first = file.read(1)
        file.seek(0)
        if first == b"{":
            line = file.readline(MOST_HEADER)
            try:
                header = json.loads(line)
            except ValueError as error:
                raise UserError(
                    f"{path} begins with a line that is no JSON; get it again."
                ) from error
            file = io.BytesIO(file.read())
        _refuse_compressed(file, path)
        try:
            return header, torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch and zipfile raise many kinds on what is no checkpoint
            if "weights_only" in str(error) or "Unsupported global" in str(error):
                raise UserError(
                    f"{path} holds pickled objects, which can run code when opened; if you trust where "
                    f"it comes from, write it as plain data with {CONVERTER} {path.name} OUT.pt"
                ) from error
            raise UserError(
                f"{path} is cut off or damaged ({first_line(error)}); get the dictionary again."
            ) from error


def _refuse_compressed(file: io.BufferedIOBase, path: Path) -> None:
    """torch stores tensors as they are: a member that unpacks to more was made by somebody else."""
    import zipfile

    if zipfile.is_zipfile(file):
        file.seek(0)
        try:
            members = zipfile.ZipFile(file).infolist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError):
            members = []  # torch says what is wrong with it
        if any(one.file_size > one.compress_size for one in members):
            raise UserError(
                f"{path} holds compressed weights, which torch never writes; get it again."
            )
    file.seek(0)


def _split(content: Any, path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Tensors, the settings that lie beside them, and what else does."""
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__} and no weights by name.")
    content = dict(content)
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content.get(key), Mapping):
            weights = dict(content.pop(key))
            settings: dict[str, Any] = {}
            for name in ("cfg", "config"):
                if isinstance(content.get(name), Mapping):
                    settings = dict(content.pop(name))
            return weights, settings, content
    return content, {}, {}
