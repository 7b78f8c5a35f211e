"""Edits of codes: pure functions z → z'. Nothing here knows a model or a dictionary.

Suffixes: b images, p chosen tokens, s latents, m edited latents.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class TokenCodes(NamedTuple):
    """What an edit may look at: the codes of a batch at the tokens a dictionary reads."""

    z: Float[Tensor, "b p s"]
    """Codes before any edit."""
    patches: Int[Tensor, " p"]
    """Number of each token's patch on the grid, row-major; −1 for class and register tokens."""
    is_class: Bool[Tensor, " p"]
    """Which of them is the class token."""
    mask: Bool[Tensor, "b p"] | None = None
    """Tokens of interest, e.g. those of one class in an image's segmentation."""


@dataclass(frozen=True)
class Where:
    """The tokens an edit touches, among those the dictionary reads.

    ``all``; ``patches`` with their numbers; ``mask`` and ``off_mask``, inside and outside the mask
    that comes with the batch; ``class``; ``fires`` and ``silent``, where latent ``latent`` has a
    code above ``threshold``, or not.
    """

    kind: str = "all"
    patches: tuple[int, ...] = ()
    latent: int | None = None
    threshold: float = 0.0

    KINDS = ("all", "patches", "mask", "off_mask", "class", "fires", "silent")

    def __post_init__(self) -> None:
        if self.kind not in self.KINDS:
            raise ValueError(f"where is {self.kind!r}; choose one of {', '.join(self.KINDS)}")
        if (self.kind == "patches") != bool(self.patches):
            raise ValueError(
                f"where is {self.kind!r} with patches={list(self.patches)}: numbers of patches go "
                "with where=patches and with nothing else"
            )
        if (self.kind in ("fires", "silent")) != (self.latent is not None):
            raise ValueError(
                f"where is {self.kind!r} with latent={self.latent}: a latent goes with "
                "where=fires or where=silent and with nothing else"
            )

    def select(self, codes: TokenCodes) -> Bool[Tensor, "b p"]:
        """Where the edit applies; raises ``ValueError`` when a mask is asked for and not there."""
        b, p, _ = codes.z.shape
        if self.kind in ("mask", "off_mask"):
            if codes.mask is None:
                raise ValueError(f"where is {self.kind!r} and the batch came without a mask")
            return codes.mask if self.kind == "mask" else ~codes.mask
        if self.kind in ("fires", "silent"):
            fires_bp = codes.z[..., self.latent] > self.threshold
            return fires_bp if self.kind == "fires" else ~fires_bp
        if self.kind == "patches":
            wanted = torch.tensor(self.patches, device=codes.patches.device)
            chosen_p = torch.isin(codes.patches, wanted)
        elif self.kind == "class":
            chosen_p = codes.is_class
        else:
            chosen_p = torch.ones(p, dtype=torch.bool, device=codes.z.device)
        return chosen_p.expand(b, p)


EVERYWHERE = Where()


@dataclass(frozen=True)
class CodeEdit(ABC):
    """One edit of some latents at some tokens.

    Amounts are multiples of the largest code that each latent was seen to have, so that one number
    means the same for all of them (``unit="largest"``), or codes as they are (``unit="code"``).
    """

    latents: tuple[int, ...]
    where: Where = field(default=EVERYWHERE, kw_only=True)
    unit: str = field(default="largest", kw_only=True)

    has_unit: ClassVar[bool] = False
    """Whether it has an amount that the unit multiplies."""
    UNITS: ClassVar[tuple[str, ...]] = ("largest", "code")

    def __post_init__(self) -> None:
        if self.unit not in self.UNITS:
            raise ValueError(f"unit is {self.unit!r}; choose {' or '.join(self.UNITS)}")
        if not self.latents:
            raise ValueError(f"latents=[] leaves {type(self).__name__} nothing to edit")
        if len(set(self.latents)) < len(self.latents):
            raise ValueError(f"latents={list(self.latents)} names a latent twice")

    @property
    def needs_largest(self) -> bool:
        """Whether its amount means nothing without each latent's largest code."""
        return self.has_unit and self.unit == "largest"

    @abstractmethod
    def new_codes(
        self, z: Float[Tensor, "b p m"], largest: Float[Tensor, " m"]
    ) -> Float[Tensor, "b p m"]:
        """What the latents become where the edit applies; ``largest`` is the largest code seen, or
        ones where amounts are codes."""


@dataclass(frozen=True)
class Ablate(CodeEdit):
    """z' = 0."""

    def new_codes(self, z: Tensor, largest: Tensor) -> Tensor:
        return torch.zeros_like(z)


@dataclass(frozen=True)
class SetTo(CodeEdit):
    """z' = scale × largest; the paper's edit, with scale from −20 to 20."""

    scale: float
    has_unit = True

    def new_codes(self, z: Tensor, largest: Tensor) -> Tensor:
        return (self.scale * largest).expand_as(z)


@dataclass(frozen=True)
class Scale(CodeEdit):
    """z' = factor × z."""

    factor: float

    def new_codes(self, z: Tensor, largest: Tensor) -> Tensor:
        return self.factor * z


@dataclass(frozen=True)
class Add(CodeEdit):
    """z' = z + scale × largest."""

    scale: float
    has_unit = True

    def new_codes(self, z: Tensor, largest: Tensor) -> Tensor:
        return z + self.scale * largest


@dataclass(frozen=True)
class Clamp(CodeEdit):
    """z' = z kept between ``low`` × largest and ``high`` × largest."""

    low: float
    high: float
    has_unit = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low > self.high:
            raise ValueError(f"low={self.low} is above high={self.high}")

    def new_codes(self, z: Tensor, largest: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(z, self.low * largest), self.high * largest)


@dataclass(frozen=True, eq=False)
class Swap(CodeEdit):
    """z' = the codes another image has at the same tokens."""

    source: Float[Tensor, "p m"]
    """Codes of the other image, one column per edited latent."""

    def new_codes(self, z: Tensor, largest: Tensor) -> Tensor:
        if self.source.shape != z.shape[1:]:
            raise ValueError(
                f"source is {tuple(self.source.shape)}; the image has {z.shape[1]} tokens and "
                f"{z.shape[2]} latents are swapped"
            )
        return self.source.to(z).expand_as(z)


def edited_latents(edits: Sequence[CodeEdit]) -> tuple[int, ...]:
    """Every latent that one of the edits names, once, in the order of appearance."""
    return tuple(dict.fromkeys(latent for edit in edits for latent in edit.latents))


def apply_edits(
    edits: Sequence[CodeEdit], codes: TokenCodes, largest: Float[Tensor, " s"] | None
) -> tuple[tuple[int, ...], Float[Tensor, "b p m"]]:
    """The edits one after another: the latents they touch, and those latents' codes afterwards.

    A ``Where`` looks at the codes before any edit, so the order of edits on different latents
    makes no difference. ``largest`` may be None where no edit needs it.
    """
    latents = edited_latents(edits)
    column = {latent: number for number, latent in enumerate(latents)}
    z_bpm = codes.z[..., list(latents)].clone()
    for edit in edits:
        columns = [column[latent] for latent in edit.latents]
        before = z_bpm[..., columns]
        if edit.needs_largest:
            assert largest is not None, "TapEdit refuses such edits"
            unit = largest[list(edit.latents)].to(before)
        else:
            unit = torch.ones(len(edit.latents)).to(before)
        after = edit.new_codes(before, unit)
        z_bpm[..., columns] = torch.where(edit.where.select(codes)[..., None], after, before)
    return latents, z_bpm
