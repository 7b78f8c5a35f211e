"""Weights on disk: which file, whether it is safe to open, what is in it, its hash.

Nothing here ever unpickles: a weights file comes from anyone.
"""

from __future__ import annotations

import hashlib
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from saev.errors import UserError, first_line

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
# training checkpoints keep the model under one of these keys
NESTED_KEYS = ("state_dict", "model_state_dict", "model")


class WeightsFiles(NamedTuple):
    """A weights file and what lies beside it."""

    weights: Path
    configs: list[Path]
    """JSON files in the same folder, which may describe the model."""


def find_weights(weights: str, preferred: str) -> WeightsFiles:
    """The one weights file behind a path; raises UserError when there is none or more than one.

    ``preferred`` is the name that wins in a folder: hub snapshots hold the same weights for
    several libraries.
    """
    path = Path(weights).expanduser()
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES and p.is_file())
        found = [p for p in found if p.name == preferred] or found
        if len(found) != 1:
            names = ", ".join(p.name for p in found) or "none"
            raise UserError(
                f"The folder {path} must hold exactly one weights file ({', '.join(SUFFIXES)}) and "
                f"holds {names}: set backbone.weights to the file itself."
            )
        return WeightsFiles(found[0], sorted(path.glob("*.json")))
    if not path.is_file():
        raise UserError(
            f"backbone.weights={weights} is neither a file nor a folder: give the path of a "
            "weights file, or pretrained (download) or random (by name)."
        )
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path} is not a weights file: {', '.join(SUFFIXES)} can be read.")
    return WeightsFiles(path, sorted(path.parent.glob("*.json")))


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name, without running any code that the file brings."""
    raw: Any = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    for key in NESTED_KEYS:
        if isinstance(raw, Mapping) and isinstance(raw.get(key), Mapping):
            raw = raw[key]
    tensors = {k: v for k, v in raw.items() if isinstance(v, Tensor)} if raw else {}
    if not tensors:
        raise UserError(f"{path} holds no tensors: it is not a model's weights.")
    if all(key.startswith("module.") for key in tensors):  # saved from DistributedDataParallel
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is corrupt or not safetensors ({error}): fetch it again."
        ) from error


def _read_torch(path: Path) -> Any:
    if _is_torchscript(path):
        raise UserError(
            f"{path} is a TorchScript archive, which holds code and is not opened: use the same "
            "weights as .safetensors, or backbone.weights=pretrained."
        )
    try:
        with warnings.catch_warnings():  # about pickle protocols, which the answer below covers
            warnings.simplefilter("ignore", UserWarning)
            raw = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is a pickle that would have to run code to open, or is corrupt, and is not "
            "opened: convert it to .safetensors where you trust it."
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        reason = first_line(error)
        raise UserError(
            f"{path} is corrupt or no torch file ({reason}): fetch it again."
        ) from error
    if not isinstance(raw, Mapping):
        raise UserError(f"{path} holds a {type(raw).__name__}, not tensors by name.")
    return raw


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("constants.pkl") for name in archive.namelist())


def load_exactly(module: nn.Module, tensors: Mapping[str, Tensor], source: str, model: str) -> None:
    """Fills every parameter of the module and uses every tensor, or raises UserError."""
    expected = module.state_dict()
    problems = [f"{k} is missing" for k in expected if k not in tensors]
    problems += [f"{k} belongs nowhere" for k in tensors if k not in expected]
    problems += [
        f"{k} is {tuple(tensors[k].shape)} instead of {tuple(v.shape)}"
        for k, v in expected.items()
        if k in tensors and tensors[k].shape != v.shape
    ]
    if problems:
        raise other_architecture(source, model, problems[0], len(problems))
    module.load_state_dict(dict(tensors))


def other_architecture(source: str, model: str, example: str, n_problems: int) -> UserError:
    """The one sentence for weights that do not fit."""
    more = f" and {n_problems - 1} more" if n_problems > 1 else ""
    return UserError(
        f"The weights file {source} is of another architecture than {model} ({example}{more}): "
        "set backbone.name to the model it belongs to."
    )


def state_dict_sha256(module: nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all tensors, in the order of names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
