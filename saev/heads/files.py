"""A trained head read from its folder, which anybody may have written: types, ranges and shapes first."""

from pathlib import Path
from typing import Any

from torch import Tensor

from saev.errors import UserError
from saev.files import (
    BACKBONE_IDENTITY,
    a_list,
    a_number,
    a_text,
    a_whole,
    an_object,
    check_fields,
    one_of,
    or_null,
    plain_object,
    read_json,
    shown,
)
from saev.heads.reading import FEATURES, Reading
from saev.heads.trained import CONFIG_NAME, FORMAT_VERSION, KINDS, WEIGHTS_NAME, TrainedHead

MOST_TOKENS = 10**6

FIELDS = an_object(
    {
        "format_version": a_whole(1),
        "kind": one_of(*KINDS),
        "reading": an_object(
            {
                "features": one_of(*FEATURES),
                "n_tokens": a_whole(1, MOST_TOKENS),
                "positions": a_list(a_whole(0, MOST_TOKENS - 1), 0, MOST_TOKENS),
                "grid": a_list(a_whole(1, MOST_TOKENS), 2, 2),
            }
        ),
        "class_names": a_list(a_text(), 1),
        "backbone": BACKBONE_IDENTITY,
        "logit_scale": or_null(a_number(0, 1e6, above=True)),
        "recipe": plain_object,
    },
    {"features": one_of(*FEATURES)},
)
"""Of ``config.json``, whoever wrote it."""


def load_head(directory: str | Path) -> TrainedHead:
    """Reads what ``TrainedHead.save`` wrote; its logits equal the saved head's bit for bit.

    Raises:
        UserError: nothing there, a damaged file, another format, tensors that contradict the config.
    """
    folder = Path(directory)
    config = _read_config(folder)
    path = folder / WEIGHTS_NAME
    try:
        tensors = _read_weights(path, len(config["class_names"]))
        head = TrainedHead(
            config["kind"],
            Reading.from_dict(config["reading"]),
            config["class_names"],
            config["backbone"],
            tensors["weight"],
            tensors["bias"],
            config["logit_scale"],
            config["recipe"],
        )
    except UserError:
        raise
    except ValueError as error:
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
    config = read_json(path, "train the head again")
    version = config.get("format_version")
    if version != FORMAT_VERSION or "reading" not in config:
        raise UserError(
            f"{path} is not the config of a head in format {FORMAT_VERSION} (it has "
            f"{shown(version)}); give the head/ folder of a run of saev.train."
        )
    check_fields(config, FIELDS, str(path), "train the head again")
    reading = config["reading"]
    if any(position >= reading["n_tokens"] for position in reading["positions"]):
        raise UserError(
            f"{path} reads tokens beyond the {reading['n_tokens']} it says there are; train the head "
            "again."
        )
    return config


def _read_weights(path: Path, n_classes: int) -> dict[str, Tensor]:
    """``weight`` and ``bias``; raises UserError unless they are finite and have a row per class."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"{path.parent} holds no {WEIGHTS_NAME}; train the head again.")
    tensors = {}
    try:
        with safe_open(path, "pt") as file:
            names = set(file.keys())
            for name, n_axes in (("weight", 2), ("bias", 1)):
                if name not in names:
                    raise UserError(f"{path} has no {name}; train the head again.")
                part = file.get_slice(name)
                shape, dtype = part.get_shape(), part.get_dtype()
                if len(shape) != n_axes or 0 in shape or not dtype.startswith(("F", "BF")):
                    raise UserError(
                        f"{path} has {name} of type {dtype} and shape {tuple(shape)}, not "
                        f"{n_axes} axes of floats; train the head again."
                    )
                if shape[0] != n_classes:
                    raise UserError(
                        f"{path} has {name} of {shape[0]} rows for {n_classes} class names; train "
                        "the head again."
                    )
                tensors[name] = file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}); train the head again.") from error
    if stray := [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]:
        raise UserError(
            f"{path} has values in {stray[0]} that are not finite; train the head again."
        )
    return tensors
