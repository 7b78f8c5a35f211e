"""Defaults of commands, read from ``conf/``: the one place where they are written down."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saev.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

_PACKAGE = Path(__file__).resolve().parent

CONF_DIR = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"
"""Inside the package where a wheel was installed, beside it in a clone."""

OUTPUTS = "outputs"
"""Where commands write, below the working directory: ``paths.outputs``."""


def names(group: str) -> list[str]:
    """The files of a group of ``conf/``: ``names("images")`` has "folder" and "scenes" among them."""
    return sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml"))


@cache
def conf_node(name: str) -> DictConfig:
    """A file of ``conf/`` with the files of its own folder that its ``defaults`` list names below it.

    ``conf_node("model/topk")``. References such as ``${seed}`` stay as they are.

    Raises:
        FileNotFoundError: no such file.
    """
    from omegaconf import DictConfig, OmegaConf

    path = CONF_DIR / f"{name}.yaml"
    found = OmegaConf.load(path)
    assert isinstance(found, DictConfig)
    bases = [base for base in found.pop("defaults", []) if isinstance(base, str)]
    bases = [base for base in bases if base != "_self_" and path.with_stem(base).is_file()]
    merged = OmegaConf.merge(*(conf_node(str(Path(name).with_name(base))) for base in bases), found)
    assert isinstance(merged, DictConfig)
    return merged


def defaults(name: str, *keys: str) -> dict[str, Any]:
    """A node of a file of ``conf/`` as plain values: ``defaults("describe", "atlas")``.

    ``${paths.outputs}`` is filled in; other values that refer to others (``${seed}``) are left out,
    for whoever calls has them to give.

    Raises:
        KeyError: no such node.
        FileNotFoundError: no such file.
    """
    from omegaconf import OmegaConf

    values: Any = OmegaConf.to_container(conf_node(name), resolve=False)
    for key in keys:
        values = values[key]
    filled = {
        key: value.replace("${paths.outputs}", OUTPUTS) if isinstance(value, str) else value
        for key, value in values.items()
    }
    return {k: v for k, v in filled.items() if not (isinstance(v, str) and "${" in v)}


def replaced(
    values: Mapping[str, Any], settings: Mapping[str, Any], where: str, also: Iterable[str] = ()
) -> dict[str, Any]:
    """Values with some of them replaced; a mapping replaces keys of a node and leaves the others.

    Args:
        where: names the values in errors.
        also: settings that may be given although the values do not have them.

    Raises:
        UserError: a setting that there is not.
    """
    allowed = [name for name in {**values, **dict.fromkeys(also)} if not name.startswith("_")]
    if unknown := [key for key in settings if key not in allowed]:
        raise UserError(f"{where} has no setting {unknown[0]}; it has {', '.join(allowed)}")
    result = dict(values)
    for key, value in settings.items():
        inner = values.get(key)
        both = isinstance(value, Mapping) and isinstance(inner, Mapping)
        result[key] = {**inner, **value} if both and "_target_" not in value else value  # pyright: ignore
    return result
