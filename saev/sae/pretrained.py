"""Dictionaries on disk and on the hub: a folder with ``config.json`` and ``weights.safetensors``.

The tensors are what the dictionary learned; how its input is normalised is data and stands as
numbers in ``config.json`` under ``normalization``, exact to the bit. Nothing here can execute code
from the file: pickles are refused.
"""

import json
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from saev.errors import UserError
from saev.sae.config import SAEConfig
from saev.sae.model import SparseAutoencoder

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "weights.safetensors"
NORMALIZATION = ("mean", "scale")
PICKLE_SUFFIXES = {".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt"}


def save_pretrained(sae: SparseAutoencoder, directory: str | Path) -> Path:
    """Write the folder; each file appears whole or not at all. Returns the folder."""
    from safetensors.torch import save

    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: t.detach().cpu().contiguous()
        for name, t in sae.state_dict().items()
        if name not in NORMALIZATION
    }
    # Python writes the shortest decimal that reads back as the same number.
    normalization = {name: getattr(sae, name).tolist() for name in NORMALIZATION}
    values = {**sae.cfg.to_dict(), "normalization": normalization}
    config = json.dumps(values, indent=2, sort_keys=True) + "\n"
    # The config comes last: a folder that has one is complete.
    for name, content in ((WEIGHTS_NAME, save(tensors)), (CONFIG_NAME, config.encode())):
        partial = folder / f"{name}.partial"
        partial.write_bytes(content)
        partial.replace(folder / name)
    return folder


def from_pretrained(source: str | Path, device: str | torch.device = "cpu") -> SparseAutoencoder:
    """Read what ``save_pretrained`` wrote, from a folder or a hub id such as ``user/name``.

    Returns the dictionary in eval mode, without gradients; its codes equal the saved one's bit
    for bit.

    Raises:
        UserError: nothing there, a pickle, a damaged file, a newer format, shapes that contradict
            the config, a hub that does not answer.
    """
    folder = _local_folder(source)
    cfg, normalization = _read_config(folder / CONFIG_NAME)
    tensors = _read_weights(folder / WEIGHTS_NAME)
    sae = SparseAutoencoder(cfg, torch.Generator())
    learned = {name: t for name, t in sae.state_dict().items() if name not in NORMALIZATION}
    _check_tensors(learned, tensors, folder)
    sae.to(tensors["W_enc"].dtype).load_state_dict(tensors, strict=False)
    for name, value in normalization.items():
        buffer = getattr(sae, name)
        if value.shape != buffer.shape:
            raise UserError(
                f"{folder / CONFIG_NAME} has {name} of shape {tuple(value.shape)} where d_model is "
                f"{cfg.d_model}; export the dictionary again."
            )
        buffer.copy_(value)
    return sae.to(device).eval().requires_grad_(False)


def push_to_hub(sae: SparseAutoencoder, repo_id: str, private: bool = False) -> str:
    """Upload to the Hugging Face hub and return the repository's URL.

    Raises:
        UserError: the hub refuses or does not answer.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            save_pretrained(sae, folder)
            api.upload_folder(repo_id=repo_id, folder_path=folder)
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
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable JSON; export the dictionary again.") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no JSON object; export the dictionary again.")
    found = values.pop("normalization", None)
    try:
        # float64 holds every decimal; the copy into the buffer takes the dtype of the weights.
        normalization = {n: torch.tensor(found[n], dtype=torch.float64) for n in NORMALIZATION}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} has no readable normalization with mean and scale; export it again."
        ) from error
    return SAEConfig.from_dict(values, str(path)), normalization


def _read_weights(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise UserError(f"{path.parent} holds no {WEIGHTS_NAME}; export the dictionary again.")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is damaged; export or download the dictionary again.") from error


def _check_tensors(expected: dict[str, Tensor], found: dict[str, Tensor], folder: Path) -> None:
    if wrong := sorted(set(expected) ^ set(found)):
        state = "missing from" if wrong[0] in expected else "unexpected in"
        raise UserError(f"{wrong[0]} is {state} {folder / WEIGHTS_NAME}; export it again.")
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape:
            raise UserError(
                f"{folder / WEIGHTS_NAME} has {name} of shape {tuple(found[name].shape)} where "
                f"{CONFIG_NAME} says {tuple(tensor.shape)}; the two files do not belong together."
            )
