"""Public dictionaries by name: the files of ``conf/pretrained``.

A file is a family, such as ``prisma``; its ``members`` are dictionaries, and ``prisma:layer9`` is one.
"""

import difflib
from collections.abc import Iterator
from typing import Any, NamedTuple

from saev.defaults import conf_node, names
from saev.errors import UserError
from saev.files import (
    a_number,
    a_text,
    a_whole,
    an_object,
    check_fields,
    one_of,
    or_null,
    plain_object,
)

_NUMBERS = {
    "explained_variance": or_null(a_number(-1e3, 1)), "l0": or_null(a_number(0)),
    "nmse": or_null(a_number(0)),
}  # fmt: skip
MEMBER = an_object(
    {"hub": a_text(200)},
    {
        "path": or_null(a_text(300)), "revision": or_null(a_text(100)),
        "backbone": or_null(a_text(100)), "changes": plain_object,
        "layer": or_null(a_whole(0, 1000)), "tokens": or_null(one_of("patch", "class", "all")),
        "normalization": one_of("recorded"), "licence": or_null(a_text(200)),
        "note": or_null(a_text(1000)), **_NUMBERS,
    },
)  # fmt: skip
"""``hub``: owner/name; ``path``: folder or file in it; ``changes``: of the file of ``conf/backbone``;
``normalization``: where mean and scale of its inputs are in no file."""


class Public(NamedTuple):
    """One public dictionary."""

    name: str
    """family:member."""
    about: str
    values: dict[str, Any]
    """``MEMBER``."""


def known() -> Iterator[Public]:
    """Every public dictionary that is known, in order."""
    for family in names("pretrained"):
        yield from _members(family)


def by_name(name: str) -> Public:
    """The dictionary ``family:member``.

    Raises:
        UserError: no such name; the nearest are shown.
    """
    family, _, _ = name.partition(":")
    found = {
        one.name: one for one in (_members(family) if family in names("pretrained") else known())
    }
    if name in found:
        return found[name]
    every = [one.name for one in known()]
    close = difflib.get_close_matches(name, every, n=3, cutoff=0.4)
    if family in names("pretrained"):
        close = [*close, *list(found)][:3]
    raise UserError(
        f"there is no public dictionary {name!r}; nearest are {', '.join(dict.fromkeys(close))} "
        "(all of them: python -m saev.convert list=true)"
    )


def _members(family: str) -> Iterator[Public]:
    from omegaconf import OmegaConf

    content: Any = OmegaConf.to_container(conf_node(f"pretrained/{family}"))
    shared = {key: value for key, value in content.items() if key not in ("about", "members")}
    for member, own in content["members"].items():
        values = {**shared, **(own or {})}
        check_fields(values, MEMBER, f"conf/pretrained/{family}.yaml, {member},", "correct it")
        yield Public(f"{family}:{member}", str(content["about"]), values)
