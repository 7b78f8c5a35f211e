"""Edits by name, for Python (``edits.set(latent=17, scale=-1.0)``), YAML and JSON.

Amounts called ``scale``, ``low`` and ``high`` are multiples of the largest code that a latent was
seen to have; those called ``code``, ``low_code`` and ``high_code`` are codes as they are.
``where`` says at which tokens, as in YAML: "all", "class", "mask", "off_mask",
``{"patches": [0, 1]}``, ``{"fires": 17, "threshold": 0.5}`` or ``{"silent": 17}``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from saev.editing.code_edits import (
    EVERYWHERE,
    Ablate,
    Add,
    Clamp,
    CodeEdit,
    Scale,
    SetTo,
    Swap,
    Where,
)
from saev.errors import UserError

Amount = float | int


def ablate(
    latent: int | None = None, *, latents: Sequence[int] = (), where: Any = "all"
) -> CodeEdit:
    """z' = 0."""
    return make_edit("ablate", _latents(latent, latents), parse_where(where))


def set(
    latent: int | None = None, *, latents: Sequence[int] = (), scale: Amount | None = None,
    code: Amount | None = None, where: Any = "all",
) -> CodeEdit:  # fmt: skip
    """z' = scale × largest, or z' = code."""
    unit, amount = _unit(scale=scale, code=code)
    edit = make_edit("set", _latents(latent, latents), parse_where(where), scale=amount)
    return replace(edit, unit=unit)


def scale(
    latent: int | None = None, *, latents: Sequence[int] = (), factor: Amount, where: Any = "all"
) -> CodeEdit:
    """z' = factor × z."""
    return make_edit("scale", _latents(latent, latents), parse_where(where), factor=factor)


def add(
    latent: int | None = None, *, latents: Sequence[int] = (), scale: Amount | None = None,
    code: Amount | None = None, where: Any = "all",
) -> CodeEdit:  # fmt: skip
    """z' = z + scale × largest, or z' = z + code."""
    unit, amount = _unit(scale=scale, code=code)
    edit = make_edit("add", _latents(latent, latents), parse_where(where), scale=amount)
    return replace(edit, unit=unit)


def clamp(
    latent: int | None = None, *, latents: Sequence[int] = (), low: Amount | None = None,
    high: Amount | None = None, low_code: Amount | None = None, high_code: Amount | None = None,
    where: Any = "all",
) -> CodeEdit:  # fmt: skip
    """z' = z kept between ``low`` × largest and ``high`` × largest, or between two codes."""
    unit, lowest = _unit(low=low, low_code=low_code)
    other, highest = _unit(high=high, high_code=high_code)
    if unit != other:
        raise UserError("clamp: give low and high, or low_code and high_code, not one of each")
    edit = make_edit(
        "clamp", _latents(latent, latents), parse_where(where), low=lowest, high=highest
    )
    return replace(edit, unit=unit)


def swap(
    latent: int | None = None, *, latents: Sequence[int] = (), source: Float[Tensor, "p m"],
    where: Any = "all",
) -> CodeEdit:  # fmt: skip
    """z' = ``source``: codes of another image at the same tokens, one column per edited latent."""
    return make_edit("swap", _latents(latent, latents), parse_where(where), source=source)


def _latents(latent: int | None, latents: Sequence[int]) -> Sequence[int]:
    if (latent is None) == (len(latents) == 0):
        raise UserError("an edit takes latent=… or latents=[…], and one of them only")
    return latents if latent is None else [latent]


def _unit(**given: Amount | None) -> tuple[str, Amount]:
    """Which of two amounts was given, the one in largest codes or the one in codes."""
    chosen = [(key, amount) for key, amount in given.items() if amount is not None]
    if len(chosen) != 1:
        raise UserError(f"an edit takes {'=… or '.join(given)}=…, and one of them only")
    key, amount = chosen[0]
    return ("code" if key.endswith("code") else "largest"), amount


KINDS: dict[str, tuple[type[CodeEdit], tuple[str, ...]]] = {
    "ablate": (Ablate, ()),
    "set": (SetTo, ("scale",)),
    "scale": (Scale, ("factor",)),
    "add": (Add, ("scale",)),
    "clamp": (Clamp, ("low", "high")),
    "swap": (Swap, ("source",)),
}
"""Names in YAML: the class, and the keys it needs."""


def make_edit(
    kind: str, latents: Sequence[int], where: Where = EVERYWHERE, **amounts: Any
) -> CodeEdit:
    """An edit by its name in ``KINDS``; raises ``UserError`` for unknown names or wrong amounts."""
    if kind not in KINDS:
        raise UserError(f"edit.kind is {kind!r}: choose one of {', '.join(KINDS)}")
    edit, keys = KINDS[kind]
    if sorted(amounts) != sorted(keys):
        needs = ", ".join(keys) or "nothing else"
        raise UserError(
            f"edit.kind={kind} got {', '.join(sorted(amounts)) or 'no amount'}: it takes {needs}"
        )
    try:
        numbers: dict[str, Any] = {
            k: a if isinstance(a, Tensor) else float(a) for k, a in amounts.items()
        }
        return edit(tuple(int(latent) for latent in latents), where=where, **numbers)
    except (TypeError, ValueError) as error:
        raise UserError(f"edit.kind={kind}: {error}") from error


def parse_where(value: Any) -> Where:
    """``all``, ``class``, …, ``{patches: [0, 1]}`` or ``{fires: 17, threshold: 0.5}``, as in YAML."""
    if isinstance(value, Where):
        return value
    try:
        if isinstance(value, str):
            return Where(value)
        if isinstance(value, Mapping):
            given = dict(value)
            if "patches" in given:
                return Where("patches", tuple(int(p) for p in given["patches"]))
            for kind in ("fires", "silent"):
                if kind in given:
                    threshold = float(given.get("threshold", 0.0))
                    return Where(kind, latent=int(given[kind]), threshold=threshold)
    except (TypeError, ValueError) as error:
        raise UserError(f"edit.where: {error}") from error
    raise UserError(f"edit.where is {value!r}: give {', '.join(Where.KINDS)}")


def parse_edit(node: Mapping[str, Any], latents: Sequence[int]) -> CodeEdit:
    """An edit from a YAML mapping: ``kind``, its amount, optionally ``where`` and ``latents``."""
    given = dict(node)
    kind, where = str(given.pop("kind", "set")), parse_where(given.pop("where", "all"))
    return make_edit(kind, given.pop("latents", latents), where, **given)


def edit_to_dict(edit: CodeEdit) -> dict[str, Any]:
    """The edit such that JSON can hold it; the tensor of a swap is left out."""
    kind = next(name for name, (cls, _) in KINDS.items() if type(edit) is cls)
    content = {"kind": kind, "latents": list(edit.latents), "where": _where_to_plain(edit.where)}
    if edit.has_unit:
        content["unit"] = edit.unit
    amounts = {key: getattr(edit, key) for key in KINDS[kind][1]}
    return content | {k: a for k, a in amounts.items() if not isinstance(a, Tensor)}


def edit_from_dict(content: Mapping[str, Any], **tensors: Tensor) -> CodeEdit:
    """The inverse of :func:`edit_to_dict`, with the tensor of a swap as ``source``."""
    given = dict(content)
    unit = given.pop("unit", "largest")
    edit = parse_edit({**given, **tensors}, ())
    try:
        return replace(edit, unit=unit)
    except ValueError as error:
        raise UserError(f"edit.unit: {error}") from error


def _where_to_plain(where: Where) -> str | dict[str, Any]:
    if where.kind == "patches":
        return {"patches": list(where.patches)}
    if where.latent is not None:
        return {where.kind: where.latent, "threshold": where.threshold}
    return where.kind
