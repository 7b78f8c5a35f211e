"""An image source from what a dictionary or a head keeps of it: a kind and plain arguments.

Such a mapping may come from a stranger, so nothing in it is called, resolved or fetched: kinds are
looked up in a table, arguments are plain values, tars are local files.
"""

import inspect
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from datamodules.images.base import ImageSource
from datamodules.images.tars import is_fetched, spell_out
from saev.errors import UserError

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


def source_from_spec(spec: Any, where: str) -> ImageSource:
    """The source that `ImageSource.spec` described; ``where`` says whose it is, for messages.

    Raises:
        UserError: no mapping, an unknown kind or argument, a value that is not plain, tars that
            would have to be fetched, or what the source itself raises.
    """
    if not isinstance(spec, Mapping):
        raise UserError(f"{where} gives its images as {spec!r}, not as a mapping; set images=…")
    kind, arguments = _kind_of(spec, where)
    module, name = KINDS[kind]
    source_class: type[ImageSource] = getattr(import_module(module), name)
    _check_arguments(source_class, arguments, where)
    if kind == "webdataset":
        _check_urls(arguments.get("urls"), where)
    if kind == "torchvision" and not Path(str(arguments.get("root"))).is_dir():
        arguments["download"] = False  # a folder that somebody else chose is not made here
    try:
        return source_class(**arguments)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(f"the images that {where} names do not work: {error}") from error


def _kind_of(spec: Mapping[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    """The kind, and the mapping without it."""
    arguments = dict(spec)
    key = "kind" if "kind" in arguments else "_target_"
    found = arguments.pop(key, None)
    kind = found if key == "kind" else OLD_NAMES.get(str(found))
    if not isinstance(kind, str) or kind not in KINDS:
        raise UserError(
            f"{where} names its images {found!r}, which is none of {', '.join(KINDS)}; nothing of "
            "that name is run: set images=…"
        )
    return kind, arguments


def _check_arguments(source_class: type[ImageSource], given: dict[str, Any], where: str) -> None:
    parameters = inspect.signature(source_class).parameters
    for key, value in given.items():
        if key not in parameters:
            raise UserError(
                f"{where} gives its {source_class.kind} images an argument {key!r}, which they do "
                f"not have (they have {', '.join(parameters)}); set images=…"
            )
        parts = value if isinstance(value, list) else [value]
        if not all(part is None or isinstance(part, (str, int, float, bool)) for part in parts):
            raise UserError(
                f"{where} gives its images {key}={value!r}, and only numbers, texts and lists of "
                "them are taken; set images=…"
            )


def _check_urls(urls: Any, where: str) -> None:
    for url in urls if isinstance(urls, list) else [urls]:
        for one in spell_out(str(url)):
            if is_fetched(one):
                raise UserError(
                    f"{where} says that its images are at {one}, and nothing is fetched or run "
                    f"because a file says so: add images=webdataset 'images.urls=[\"{url}\"]' if "
                    "you trust that"
                )
