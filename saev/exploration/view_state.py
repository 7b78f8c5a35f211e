"""View state: everything on an explorer's screen, as a link, as JSON, as Python."""

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol, runtime_checkable

from saev.editing.edits import edit_from_dict
from saev.errors import UserError
from saev.exploration.pictures import KEY
from saev.files import (
    a_list,
    a_number,
    a_text,
    a_whole,
    an_object,
    check_fields,
    one_of,
    or_null,
    parse_json,
)

SORTS = ("activation", "surprise", "percentile")
"""What latents can be ranked by."""
MOST_LINK = 8_000
"""Characters of a link: browsers and servers take as many."""
MOST_STATE = 1 << 16
"""Bytes of a state written as JSON."""
MOST_EDITS = 32
MOST_EDITED = 64
"""Latents of one edit."""
MOST_PATCHES = 1 << 14
MOST_CLASSES = 100
REMEDY = "use a link that the explorer made"

_PATCH = a_whole(0, MOST_PATCHES)
_LATENT = a_whole(0, 10**9)
_AMOUNT = a_number(-1e6, 1e6)
_PATCHES = a_list(_PATCH, 0, MOST_PATCHES)


def _where(value: Any, name: str) -> str | None:
    if isinstance(value, str):
        return one_of("all", "mask", "off_mask", "class")(value, name)
    known = {"patches": a_list(_PATCH, 1, MOST_PATCHES), "fires": _LATENT, "silent": _LATENT}
    return an_object({}, {**known, "threshold": _AMOUNT})(value, name)


EDIT = an_object(
    {"kind": one_of("ablate", "set", "scale", "add", "clamp"),
     "latents": a_list(_LATENT, 1, MOST_EDITED)},
    {"where": _where, "unit": one_of("largest", "code"),
     **dict.fromkeys(("scale", "factor", "low", "high"), _AMOUNT)},
)  # fmt: skip
"""One edit, as :func:`saev.editing.edits.edit_to_dict` writes it."""


def _key(value: Any, name: str) -> str | None:
    fits = isinstance(value, str) and KEY.fullmatch(value)
    return None if fits else f"{name} is no key of an image (16 hexadecimal digits)"


STATE = an_object(
    {},
    {
        "key": or_null(_key),
        "patches": _PATCHES,
        "latent": or_null(_LATENT),
        "second": or_null(_LATENT),
        "edits": a_list(EDIT, 0, MOST_EDITS),
        "where": one_of("all", "patches"),
        "sort": one_of(*SORTS),
        "classes": a_list(a_text(200), 0, MOST_CLASSES),
        "target": or_null(a_text(200)),
    },
)


MANY = ("patches", "edits", "classes")
"""Fields with several values."""


@runtime_checkable
class WritesPython(Protocol):
    """An explorer, as far as a state knows it."""

    def python(self, state: "ViewState") -> str:
        """A script that does what the state says."""
        ...


@dataclass(frozen=True)
class ViewState:
    """Everything on screen; plain values, so that no link can name a file.

    Raises:
        UserError: a value outside what is allowed.
    """

    key: str | None = None
    """Of the image; None: none is chosen."""
    patches: tuple[int, ...] = ()
    """Marked ones; none: the whole image."""
    latent: int | None = None
    """The one that is open."""
    second: int | None = None
    """The one of the second dictionary that is open."""
    edits: tuple[Mapping[str, Any], ...] = ()
    """As :func:`saev.editing.edits.edit_to_dict` writes them."""
    where: str = "all"
    """Whether edits touch every token ("all"), or the marked patches alone ("patches")."""
    sort: str = "activation"
    """One of ``SORTS``."""
    classes: tuple[str, ...] = ()
    """Typed names for a zero-shot head; none: the explorer's head."""
    target: str | None = None
    """The class that is asked about; None: the one that the edit changes most."""

    def __post_init__(self) -> None:
        check_fields(asdict(self), STATE, "the state", REMEDY)
        for edit in self.edits:
            edit_from_dict(edit)
        if self.where == "patches" and not self.patches:
            raise UserError("edits are for marked patches and none is marked; mark one or more")

    @property
    def edited_patches(self) -> tuple[int, ...] | None:
        """The patches that edits are confined to; None: they are not."""
        return self.patches if self.where == "patches" else None

    def to_json(self) -> str:
        """What :meth:`from_json` reads."""
        return json.dumps(asdict(self), indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> "ViewState":
        """The inverse of :meth:`to_json`; raises UserError for anything else."""
        data = text.encode(errors="replace") if isinstance(text, str) else text
        if len(data) > MOST_STATE:
            raise UserError(f"the state has more than {MOST_STATE:,} bytes; {REMEDY}")
        content = parse_json(data, "the state", REMEDY)
        check_fields(content, STATE, "the state", REMEDY)
        many = {key: tuple(content[key]) for key in MANY if key in content}
        return cls(**{**content, **many})

    def to_link(self) -> str:
        """Letters, digits, "-" and "_", for a link's query; what is at its default takes no space.

        Raises:
            UserError: the state is too large for a link.
        """
        default = ViewState()
        content = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if getattr(self, f.name) != getattr(default, f.name)
        }
        text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
        link = base64.urlsafe_b64encode(zlib.compress(text, 9)).decode().rstrip("=")
        if len(link) > MOST_LINK or len(text) > MOST_STATE:
            raise UserError("the state is too large for a link; save it as JSON")
        return link

    @classmethod
    def from_link(cls, text: str) -> "ViewState":
        """The inverse of :meth:`to_link`.

        Raises:
            UserError: too long, damaged, or with values that are not allowed.
        """
        if len(text) > MOST_LINK:
            raise UserError(f"the link has more than {MOST_LINK:,} characters; {REMEDY}")
        try:
            packed = base64.b64decode(
                text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True
            )
            unpacking = zlib.decompressobj()
            data = unpacking.decompress(packed, MOST_STATE)
        except (ValueError, zlib.error) as error:
            raise UserError(f"the link is damaged; {REMEDY}") from error
        if not unpacking.eof:
            raise UserError(f"the link is cut short or holds too much; {REMEDY}")
        return cls.from_json(data)

    def to_python(self, explorer: WritesPython) -> str:
        """A script with the public API that repeats the edit and prints what the model says."""
        return explorer.python(self)
