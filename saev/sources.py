"""Image sources by name, folder or object."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from datamodules.images import ImageSource
from saev.defaults import defaults, names
from saev.errors import UserError

Images = ImageSource | str | Path
"""An image source; the name of a file of ``conf/images``, such as "scenes"; or a folder of images."""


def open_images(images: Images, **settings: Any) -> ImageSource:
    """The image source that ``images`` names.

    Args:
        images: a source is returned as it is; a name is a file of ``conf/images`` ("scenes",
            "imagenette", …), whose values ``settings`` replace; anything else is a folder, whose
            sub-folders are classes.
        settings: keyword arguments of the source.

    Raises:
        UserError: neither a name nor a folder, or settings that the source does not have.
    """
    if isinstance(images, ImageSource):
        if settings:
            raise UserError(
                f"{', '.join(sorted(settings))} cannot change the source {images.name!r} that is "
                "already there; give its name or folder instead"
            )
        return images
    if str(images) in names("images"):
        return _built(str(images), settings)
    if not Path(images).expanduser().is_dir():
        raise UserError(
            f"images={str(images)!r} is neither a folder nor one of {', '.join(names('images'))}"
        )
    from datamodules.images import FolderImages

    return _checked(FolderImages, {"roots": [str(Path(images).expanduser())], **settings})


def _built(name: str, settings: Mapping[str, Any]) -> ImageSource:
    values = defaults(f"images/{name}") | dict(settings)
    module, _, kind = str(values.pop("_target_")).rpartition(".")
    values.pop("_convert_", None)
    missing = [key for key, value in values.items() if value == "???"]
    if missing:
        raise UserError(f"images={name!r} needs {missing[0]}=…")
    return _checked(getattr(import_module(module), kind), values)


def _checked(kind: Any, values: Mapping[str, Any]) -> ImageSource:
    try:
        return kind(**values)
    except TypeError as error:
        raise UserError(f"{kind.__name__} does not take these settings: {error}") from error
