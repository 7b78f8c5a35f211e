"""What the explorer answers with: plain values that a page can show and JSON can hold.

Suffixes: u units, c columns, gh gw grid of patches.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from saev.pages.site import plain


@dataclass(frozen=True)
class GalleryImage:
    """A held-out image to begin with."""

    key: str
    title: str
    """Its class where it has one, else its name."""
    thumbnail: Image.Image
    """As the model sees it, 96 pixels at the most."""


@dataclass(frozen=True)
class RankedLatent:
    """One latent in a ranking."""

    latent: int
    activation: float
    """The largest code in the chosen patches; in a search without a picture the largest one seen."""
    percentile: float
    """Of that code among the latent's codes where it fires on the start-up images; nan: it never does."""
    rate: float
    """Share of tokens of the start-up images on which it fires."""
    surprise: float
    """ln of the share of chosen patches on which it fires over ``rate``; nan in a search."""
    name: str | None = None
    """From the atlas."""
    confidence: float | None = None
    """Of the name, 0 to 1."""
    rung: str | None = None
    """Highest rung that its verdict holds, of the experiments that the explorer has run or was given."""
    n_patches: int = 0
    """Chosen patches on which it fires."""
    score: float | None = None
    """Of a search, higher is better."""
    why: str = ""
    """What the score of a search is."""


@dataclass(frozen=True)
class ShownExemplar:
    """An image on which a latent is strong."""

    key: str
    """Of the image, to be opened."""
    crop: Image.Image
    """The strongest patch and its surroundings."""
    activation: float
    patch: int
    """Number of the strongest patch, row-major."""
    title: str


@dataclass(frozen=True)
class ArmOutcome:
    """The model's answer under one edit; of several draws that of the draw which changes most."""

    label: str
    """The arm in words."""
    change: float = float("nan")
    """Total variation between the probabilities before and after, ½·Σ|p' − p|, mean over the units of
    the image and the head's groups: 0 nothing, 1 everything. Of several draws the largest."""
    changes: tuple[float, ...] = ()
    """Of every draw."""
    target_change: float = float("nan")
    """Mean change of the target's probability."""
    probabilities: dict[str, float] = field(default_factory=dict)
    """Of the ten classes that are most probable before or after the selected edit, largest first before;
    of heads that answer per patch the mean over patches."""
    class_map: Int[np.ndarray, "gh gw"] | None = None
    """Class of each patch in the target's group, an index into the outcome's ``classes``."""
    all_probabilities: Float[np.ndarray, "u c"] | None = None
    """Every column of the head, a softmax within each group."""
    absent: str | None = None
    """Why there is no such arm; None: there is."""


@dataclass(frozen=True)
class EditOutcome:
    """What an edit does, beside control edits of the same size."""

    per: str
    """What a unit is: "image" or "patch"."""
    target: str
    """The class that was chosen, or whose probability the selected edit changes most."""
    classes: tuple[str, ...]
    """Of the target's group."""
    arms: dict[str, ArmOutcome]
    """before, selected, random_latent, untrained, diffmean."""
    exceeds: dict[str, bool]
    """Per control: whether the selected edit changes more than every draw of it."""
    n_tokens: int
    """Tokens that the selected edit changes."""
    length: float
    """Mean length of its change on them, in units of the residual stream."""
    seconds: float

    @property
    def change(self) -> dict[str, float]:
        """Per arm; of several draws the largest."""
        return {name: arm.change for name, arm in self.arms.items()}

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, without the probabilities of every unit."""
        content = asdict(self)
        for arm in content["arms"].values():
            del arm["all_probabilities"]
            if arm["class_map"] is not None:
                arm["class_map"] = arm["class_map"].tolist()
        return plain(content)
