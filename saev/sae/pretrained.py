"""Dictionaries on disk and on the hub: a folder with ``config.json`` and ``weights.safetensors``.

The tensors are what the dictionary learned; how its input is normalised is data and is kept as
numbers in ``config.json`` under ``normalization``, exact to the bit. Nothing here can execute code
from the file: pickles are refused. Types, ranges and shapes are compared before memory is taken for
them. Which tensors a config asks for, ``model`` knows.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from saev.errors import UserError
from saev.files import a_list, a_number, an_object, read_json, write_atomically
from saev.sae.config import SAEConfig

Dictionary = TypeVar("Dictionary", bound=nn.Module)

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "weights.safetensors"
NORMALIZATION = ("mean", "scale")
NORMALIZATION_FIELDS = an_object(
    {"mean": a_list(a_number(-1e30, 1e30)), "scale": a_number(0, 1e30, above=True)}
)
FLOATS = ("F64", "F32", "F16", "BF16")
"""Types of the weights, as safetensors calls them."""
PICKLE_SUFFIXES = {".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt"}


class Export(NamedTuple):
    """What a folder holds."""

    folder: Path
    cfg: SAEConfig
    tensors: dict[str, Tensor]
    """By their names in a state dict; the normalisation in float64, which holds every decimal."""

    def check(self, expected: Mapping[str, Tensor]) -> None:
        """Raises UserError unless names and shapes are those of ``expected``, and all is finite."""
        where = self.folder / WEIGHTS_NAME
        if wrong := sorted(set(expected) ^ set(self.tensors)):
            state = "missing from" if wrong[0] in expected else "unexpected in"
            raise UserError(f"{wrong[0]} is {state} {where}; export it again.")
        for name, tensor in expected.items():
            shape = tuple(self.tensors[name].shape)
            if shape != tensor.shape and name in NORMALIZATION:
                raise UserError(
                    f"{self.folder / CONFIG_NAME} has {name} of shape {shape} where d_model is "
                    f"{self.cfg.d_model}; export the dictionary again."
                )
            if shape != tensor.shape:
                raise UserError(
                    f"{where} has {name} of shape {shape} where {CONFIG_NAME} says "
                    f"{tuple(tensor.shape)}; the two files do not belong together."
                )
            if not bool(self.tensors[name].isfinite().all()):
                raise UserError(
                    f"{where} has values in {name} that are not finite: the training diverged; use "
                    "another dictionary."
                )


def write_folder(cfg: SAEConfig, tensors: Mapping[str, Tensor], directory: str | Path) -> Path:
    """Write the folder; each file appears whole or not at all. Returns the folder.

    Args:
        tensors: a dictionary's state dict.
    """
    from safetensors.torch import save

    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    learned = {
        name: t.detach().cpu().contiguous()
        for name, t in tensors.items()
        if name not in NORMALIZATION
    }
    # Python writes the shortest decimal that reads back as the same number.
    normalization = {name: tensors[name].tolist() for name in NORMALIZATION}
    values = {**cfg.to_dict(), "normalization": normalization}
    config = json.dumps(values, indent=2, sort_keys=True) + "\n"
    # The config comes last: a folder that has one is complete.
    write_atomically(folder / WEIGHTS_NAME, save(learned))
    write_atomically(folder / CONFIG_NAME, config)
    return folder


def read(source: str | Path) -> Export:
    """Read what ``write`` wrote, from a folder or a hub id such as ``user/name``.

    Raises:
        UserError: nothing there, a pickle, a damaged file, a newer format, values of another type
            or out of range, weights of another shape, a hub that does not answer.
    """
    folder = _local_folder(source)
    cfg, normalization = _read_config(folder / CONFIG_NAME)
    _check_header(folder / WEIGHTS_NAME, cfg)
    learned = _read_weights(folder / WEIGHTS_NAME)
    if stray := [name for name in NORMALIZATION if name in learned]:
        raise UserError(f"{stray[0]} is unexpected in {folder / WEIGHTS_NAME}; export it again.")
    return Export(folder, cfg, {**learned, **normalization})


def load(kind: type[Dictionary], source: str | Path) -> Dictionary:
    """A dictionary of class ``kind`` with what ``read`` finds; raises UserError as it does."""
    export = read(source)
    sae = kind(export.cfg, torch.Generator())  # pyright: ignore
    export.check(sae.state_dict())
    sae.to(export.tensors["W_enc"].dtype).load_state_dict(export.tensors)
    return sae


def push(cfg: SAEConfig, tensors: Mapping[str, Tensor], repo_id: str, private: bool) -> str:
    """Upload to the Hugging Face hub and return the repository's URL; raises as ``upload_folder``."""
    with tempfile.TemporaryDirectory() as folder:
        write_folder(cfg, tensors, folder)
        return upload_folder(folder, repo_id, private)


def upload_folder(
    folder: str | Path, repo_id: str, private: bool, patterns: list[str] | None = None
) -> str:
    """Upload files of a folder to the Hugging Face hub and return the repository's URL.

    Args:
        patterns: which files; None: all.

    Raises:
        UserError: the hub refuses or does not answer.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=str(folder), allow_patterns=patterns)
    except Exception as error:  # the hub's errors have no useful common base
        raise UserError(
            f"{repo_id} could not be uploaded to the hub ({_first_line(error)}); "
            "check the name, the network and `hf auth login`."
        ) from error
    return str(url)


def _local_folder(source: str | Path) -> Path:
    path = Path(source)
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise UserError(
            f"{source} looks like a pickle, which can run code when opened; "
            f"give the folder that holds {CONFIG_NAME} and {WEIGHTS_NAME}."
        )
    if path.is_dir():
        return path
    if path.is_file():
        raise UserError(f"{source} is a file; give the folder that holds it.")
    # A hub id is exactly owner/name; anything else can only be a path.
    text = str(source)
    if text.count("/") != 1 or text.startswith((".", "/", "~")) or text.endswith("/"):
        raise UserError(f"{source} does not exist; give a folder written by save_pretrained.")
    return _download(text)


def _download(repo_id: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo_id, allow_patterns=[CONFIG_NAME, WEIGHTS_NAME]))
    except Exception as error:  # the hub's errors have no useful common base
        raise UserError(
            f"{repo_id} is neither a local folder nor a repository the hub gives out "
            f"({_first_line(error)}); check the name and the network."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _read_config(path: Path) -> tuple[SAEConfig, dict[str, Tensor]]:
    if not path.is_file():
        raise UserError(f"{path.parent} holds no {CONFIG_NAME}; give a folder with a dictionary.")
    values = read_json(path, "export the dictionary again")
    found = values.pop("normalization", None)
    if wrong := NORMALIZATION_FIELDS(found, "normalization"):
        raise UserError(
            f"{path} has no readable normalization with mean and scale ({wrong}); export it again."
        )
    # float64 holds every decimal; the copy into the buffer takes the dtype of the weights.
    normalization = {n: torch.tensor(found[n], dtype=torch.float64) for n in NORMALIZATION}
    return SAEConfig.from_dict(values, str(path)), normalization


def _check_header(path: Path, cfg: SAEConfig) -> None:
    """Raises UserError unless the file says that it holds floats, and an encoder of the config's size:
    a model of that size is then no larger than the file."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"{path.parent} holds no {WEIGHTS_NAME}; export the dictionary again.")
    try:
        with safe_open(path, "pt") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            found = {n: (part.get_dtype(), tuple(part.get_shape())) for n, part in parts.items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is damaged; export or download the dictionary again.") from error
    for name, (dtype, _) in found.items():
        if dtype not in FLOATS:
            raise UserError(f"{path} has {name} of type {dtype}, not floats; export it again.")
    if "W_enc" not in found:
        raise UserError(f"W_enc is missing from {path}; export it again.")
    if (shape := found["W_enc"][1]) != (cfg.d_sae, cfg.d_model):
        raise UserError(
            f"{path} has W_enc of shape {shape} where {CONFIG_NAME} says "
            f"{(cfg.d_sae, cfg.d_model)}; the two files do not belong together."
        )


def _read_weights(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is damaged; export or download the dictionary again.") from error
