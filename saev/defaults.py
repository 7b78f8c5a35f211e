"""Defaults of commands, read from ``conf/``: the one place where they are written down."""

from functools import cache
from pathlib import Path
from typing import Any

CONF_DIR = Path(__file__).resolve().parents[1] / "conf"


@cache
def _read(name: str) -> dict[str, Any]:
    import yaml

    return yaml.safe_load((CONF_DIR / f"{name}.yaml").read_text(encoding="utf-8"))


def defaults(name: str, *path: str) -> dict[str, Any]:
    """A node of a file of ``conf/``, as plain values: ``defaults("describe", "atlas")``.

    Values that refer to others (``${seed}``) are left out, for whoever calls has them to give.

    Raises:
        KeyError: no such node.
        FileNotFoundError: no such file.
    """
    node = _read(name)
    for key in path:
        node = node[key]
    return {
        key: value for key, value in node.items() if not (isinstance(value, str) and "${" in value)
    }
