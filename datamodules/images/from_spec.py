"""An image source from what a dictionary or a head keeps of it: a kind and plain arguments.

Such a mapping may come from a stranger, so nothing in it is called, resolved or fetched: kinds are
looked up in a table, arguments are plain values, tars are local files.
"""

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from datamodules.images.base import ImageSource
from datamodules.images.tars import is_fetched, spell_out
from saev.errors import UserError, first_line
from saev.files import (
    Check,
    a_flag,
    a_list,
    a_number,
    a_text,
    a_whole,
    one_of,
    or_null,
    shown,
)

KINDS = {
    "folder": ("datamodules.images.folder", "FolderImages"),
    "segmentation": ("datamodules.images.segmentation", "SegmentationImages"),
    "webdataset": ("datamodules.images.webdataset", "WebDatasetImages"),
    "torchvision": ("datamodules.images.torchvision_sets", "TorchvisionImages"),
    "scenes": ("datamodules.images.scenes", "ScenesImages"),
    "pasted": ("datamodules.images.pasted", "PastedImages"),
}
"""Module and class of each kind; imported when it is wanted, for torchvision is heavy."""

OLD_NAMES = {
    f"{place}.{name}": kind
    for kind, (module, name) in KINDS.items()
    for place in ("datamodules.images", module)
}
"""What stood in place of a kind, as "_target_", in exports of version 0.1."""

_TEXT = a_text()


def _texts(value: Any, name: str) -> str | None:
    return (a_list(_TEXT, 0, 10**6) if isinstance(value, list | tuple) else _TEXT)(value, name)


ARGUMENTS: dict[str, Check] = {
    "roots": _texts,
    "urls": _texts,
    "labels": one_of("folder", "none"),
    "n_images": or_null(a_whole(1, 10**8)),
    "val_fraction": a_number(0, 1),
    "on_error": one_of("raise", "skip"),
    "seed": a_whole(),
    "void_value": or_null(a_whole(0, 255)),
    "image_key": or_null(a_text(100)),
    "label_key": a_text(1000),
    "classes": or_null(a_list(a_text(1000), 0, 10**6)),
    "cache_dir": _TEXT,
    "dataset": a_text(100),
    "root": _TEXT,
    "download": a_flag(),
    "size": a_whole(1, 2048),
    "kinds": a_list(a_text(100), 0, 100),
    "share": a_number(0, 1),
}
"""What a file may say of each argument of the classes above."""
MOST_SCENES = 10**6
"""Each is sampled for its label before one is drawn."""


def source_from_spec(spec: Any, where: str) -> ImageSource:
    """The source that `ImageSource.spec` described; ``where`` says whose it is, for messages.

    Raises:
        UserError: no mapping, an unknown kind or argument, a value that is not plain, tars that
            would have to be fetched, or what the source itself raises.
    """
    if not isinstance(spec, Mapping):
        raise UserError(
            f"{where} gives its images as {shown(spec)}, not as a mapping; set images=…"
        )
    kind, arguments = _kind_of(spec, where)
    module, name = KINDS[kind]
    source_class: type[ImageSource] = getattr(import_module(module), name)
    _check_arguments(source_class, arguments, where)
    if kind == "webdataset":
        _check_urls(arguments.get("urls"), where)
    if kind == "torchvision":
        arguments["download"] = False  # nothing is fetched because a file says so
    try:
        return source_class(**arguments)
    except UserError:
        raise
    except (TypeError, ValueError, OSError, RecursionError) as error:
        reason = first_line(error)
        raise UserError(f"the images that {where} names do not work: {reason}") from error


def _kind_of(spec: Mapping[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    """The kind, and the mapping without it."""
    arguments = dict(spec)
    key = "kind" if "kind" in arguments else "_target_"
    found = arguments.pop(key, None)
    kind = found if key == "kind" else OLD_NAMES.get(found) if isinstance(found, str) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise UserError(
            f"{where} names its images {shown(found)}, which is none of {', '.join(KINDS)}; nothing of "
            "that name is run: set images=…"
        )
    return kind, arguments


def _check_arguments(source_class: type[ImageSource], given: dict[str, Any], where: str) -> None:
    parameters = inspect.signature(source_class).parameters
    for key, value in given.items():
        if key not in parameters:
            raise UserError(
                f"{where} gives its {source_class.kind} images an argument {shown(key)}, which they do "
                f"not have (they have {', '.join(parameters)}); set images=…"
            )
        if wrong := ARGUMENTS[key](value, key):
            raise UserError(f"{where} names images that do not fit: {wrong}; set images=…")
    if source_class.kind == "scenes" and given.get("n_images", 0) > MOST_SCENES:
        raise UserError(
            f"{where} names {given['n_images']} scenes, more than {MOST_SCENES:,}; set images=…"
        )


def _check_urls(urls: Any, where: str) -> None:
    for url in [urls] if isinstance(urls, str) else urls or []:
        for one in spell_out(str(url)):
            if is_fetched(one):
                raise UserError(
                    f"{where} says that its images are at {one}, and nothing is fetched or run "
                    f"because a file says so: add images=webdataset 'images.urls=[\"{url}\"]' if "
                    "you trust that"
                )
