"""Hypothesis file: what is fixed, hashed and logged before a test image is read."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from saev.defaults import CONF_DIR, names
from saev.editing.edits import KINDS, parse_edit
from saev.errors import UserError
from saev.files import MOST_BYTES, check_fields
from saev.intervention.hypothesis_fields import MOST_ARMS, fields_fit
from saev.stats.correction import draws_needed

ARMS = (
    "selected",
    "identity",
    "random_latents",
    "random_latents_same_length",
    "random_direction",
    "covariance_direction",
    "wrong_tokens",
    "shuffled_selection",
    "diffmean",
    "linear_probe",
    "untrained_sae",
    "untrained_same_length",
)
"""Always there. ``reconstruction`` joins them when the edit replaces."""
BASELINES = ("raw_unit", "pca_direction", "gradcam_pixels")
"""Further edits through the same door, run where ``baselines`` names them."""
SELECTORS = ("f1", "auroc", "average_precision", "logistic", "attribution", "greedy", "effect")
MIN_DRAWS = 19
"""Of random latents: what their features explain of their effects is estimated from them."""
METRICS = ("target_change", "selective_change", "probability", "accuracy")
"""``target_change``: share of the class's units whose prediction changes. ``selective_change``: that,
minus the mean of the same share over the other classes of its group. ``probability``: mean fall of
the class's softmax probability on its units. ``accuracy``: fall of the share of units with that label
which are predicted right. With direction "increase" the first three look at the units of other
classes: the share that is sent to the class, the same minus the other classes' arrivals, and the
mean rise of its probability."""
DIRECTIONS = ("decrease", "increase")

REMEDY = "correct the hypothesis"
HYPOTHESES_DIR = CONF_DIR / "hypotheses"


@dataclass(frozen=True)
class Selector:
    """How latents are found on the discovery images."""

    by: str = "f1"
    """One of ``SELECTORS``."""
    n: int = 1
    """Latents edited together."""
    among: int = 20
    """``effect``: the candidates, so many of the best by F1, or by average precision where a head
    answers per image. Others do not read it."""
    best_of: int = 1
    """Sets tried on the test images, of which the best counts; p then uses the max-statistic."""

    def __post_init__(self) -> None:
        _check("selector.by", self.by in SELECTORS, self.by, f"one of {', '.join(SELECTORS)}")
        _check("selector.n", self.n >= 1, self.n, "1 or more")
        _check("selector.among", self.among >= 1, self.among, "1 or more")
        _check("selector.best_of", self.best_of >= 1, self.best_of, "1 or more")


@dataclass(frozen=True)
class Images:
    """Which images are for choosing and which for testing; they must not share one."""

    discovery: str | tuple[str, ...] = "train"
    """A split (train, val, test, heldout), or image ids."""
    test: str | tuple[str, ...] = "heldout"
    n_discovery: int | None = None
    """At most so many, the first of the source's order; spread over classes where images have one."""
    n_test: int | None = None
    n_other: int | None = None
    """For heads that answer per image: images of other classes that each hypothesis looks at."""


@dataclass(frozen=True)
class TableSettings:
    """Settings next to the tested one, described but not tested."""

    n_latents: tuple[int, ...] = ()
    scales: tuple[float, ...] = ()
    draws: int = 3
    """Of each random arm, per setting and concept."""


@dataclass(frozen=True)
class TradeoffSettings:
    """Doses at which arms are compared by what each changes besides the target."""

    doses: tuple[float, ...] = ()
    """Multiples of the tested edit, every arm at the same length; () leaves the comparison out."""
    draws: int = 3
    """Random latents and untrained dictionaries whose mean is a line of the figure."""

    def __post_init__(self) -> None:
        _check("tradeoff.doses", all(dose > 0 for dose in self.doses), self.doses, "above 0")
        _check("tradeoff.draws", self.draws >= 1, self.draws, "1 or more")


@dataclass(frozen=True)
class SupportSettings:
    """What a concept must have for anything to be said about it."""

    purity: float = 0.9
    """Share of a patch that one class must fill for the patch to count in discovery."""
    n_discovery_units: int = 30
    n_test_units: int = 50


@dataclass(frozen=True)
class Hypothesis:
    """Everything that was fixed in advance. One file may speak of many concepts.

    Raises:
        UserError: a value outside what is allowed, an unknown key, image lists that overlap.
    """

    concept: str | tuple[str, ...] = "all"
    """A class of the head, several, or "all" that have support."""
    latents: Any = None
    """By hand: a list for a single concept, or a mapping from concept to list."""
    selector: Selector = field(default_factory=Selector)
    layer: int | None = None
    """Block that the hypothesis is about; null: that of whatever SAE is given."""
    edit: Mapping[str, Any] = field(default_factory=lambda: {"kind": "set", "scale": -1.0})
    """See :func:`saev.editing.edits.parse_edit`."""
    tokens: str | tuple[str, ...] = "patch"
    """Tokens that may be touched: patch, class, registers or all; artefact tokens never are."""
    mode: str = "add"
    metric: str = "selective_change"
    direction: str = "decrease"
    doses: tuple[float, ...] = ()
    """Amounts for the dose–response curve of the selected latents."""
    images: Images = field(default_factory=Images)
    alpha: float = 0.05
    draws: int | None = None
    """Random sets of latents; null: as many as α needs after correction, and 19 at least."""
    max_ratio: float = 1.5
    """Of random latents' edits to the selected ones' (share of tokens changed, mean length, dose;
    medians over draws): beyond it the outcome is ``no_match``."""
    directions: int | None = None
    """Draws of each control that takes the length of the tested edit; null: as many as α needs, twice
    over: 39 at 0.05, of which one may do as much as the edit."""
    shuffles: int = 5
    """Times the selection is repeated on shuffled labels."""
    baselines: tuple[str, ...] = ()
    smallest_effect: float = 0.25
    """Of interest: without the power to see it, the outcome is ``no_power``."""
    table: TableSettings = field(default_factory=TableSettings)
    untrained: int = 19
    """Dictionaries that were never trained, each with latents chosen in the same way: 19 are the fewest
    of which the strongest is exceeded by chance in one of 20 cases."""
    tradeoff: TradeoffSettings = field(default_factory=TradeoffSettings)
    calibration: int = 0
    """Times that all hypotheses are tested again with latents chosen on shuffled labels."""
    placebo: int = 0
    """Hypotheses with latents that nobody chose, tested like the others: how often each test and each
    rung errs on this model."""
    power: int = 40
    """Of the placebo hypotheses those into which effects of known size are injected, two for each set
    of latents; nothing without ``placebo``."""
    support: SupportSettings = field(default_factory=SupportSettings)
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(asdict(self), fields_fit, "the hypothesis", REMEDY)
        _check("metric", self.metric in METRICS, self.metric, f"one of {', '.join(METRICS)}")
        _check("direction", self.direction in DIRECTIONS, self.direction, " or ".join(DIRECTIONS))
        _check("mode", self.mode in ("add", "replace"), self.mode, "add or replace")
        _check("alpha", 0 < self.alpha < 1, self.alpha, "between 0 and 1")
        _check("max_ratio", self.max_ratio > 1, self.max_ratio, "above 1")
        least = 3 / MOST_ARMS  # of which each control needs 2/α draws
        _check(
            "alpha", self.alpha >= least, self.alpha, f"{least} or more: less needs too many draws"
        )
        needed = draws_needed(self.alpha, 1)
        fewest = f"null, or {needed} or more: fewer can never give p ≤ {self.alpha}"
        _check("directions", self.n_directions >= needed, self.directions, fewest)
        for name in ("shuffles", "untrained"):
            _check(name, getattr(self, name) >= 1, getattr(self, name), "1 or more")
        for name in ("calibration", "placebo", "power"):
            _check(name, getattr(self, name) >= 0, getattr(self, name), "0 or more")
        if self.metric == "accuracy" and self.direction == "increase":
            raise UserError(
                "metric=accuracy measures a fall: use direction=decrease or another metric"
            )
        for name in self.baselines:
            _check("baselines", name in BASELINES, name, f"some of {', '.join(BASELINES)}")
        kind = self.edit.get("kind", "set")
        _check("edit.kind", kind in KINDS and kind != "swap", kind, _kinds())
        parse_edit(self.edit, (0,))
        dosed = "scale" in self.edit or "factor" in self.edit
        if (self.doses or self.table.scales) and not dosed:
            raise UserError(
                f"doses and table.scales need an edit with an amount to vary; edit.kind={kind} has none"
            )
        discovery, test = self.images.discovery, self.images.test
        if isinstance(discovery, tuple) and isinstance(test, tuple):
            refuse_overlap(discovery, test)

    @property
    def n_directions(self) -> int:
        """Draws of each control of the same length."""
        if self.directions is not None:
            return self.directions
        return 2 * draws_needed(self.alpha, 1) + 1

    @property
    def scale(self) -> float:
        """The tested amount: 0 for an ablation."""
        return float(self.edit.get("scale", self.edit.get("factor", 0.0)))

    @property
    def pushes(self) -> float:
        """The way in which the tested edit moves the stream along its atoms: −1 or 1."""
        return self.pushes_at(self.scale)

    def pushes_at(self, scale: float) -> float:
        """The same of the edit at another scale."""
        kind = self.edit.get("kind", "set")
        lowers = scale < 1 if kind == "scale" else scale <= 0
        return -1.0 if lowers else 1.0

    def at(self, scale: float) -> dict[str, Any]:
        """The edit with another amount."""
        key = "factor" if "factor" in self.edit else "scale"
        return {**self.edit, key: scale} if key in self.edit else dict(self.edit)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, every field."""
        return json.loads(json.dumps(asdict(self)))

    def sha256(self) -> str:
        """Of the content, whatever the order of keys in the file; every change makes another."""
        return digest(self.to_dict())

    @classmethod
    def from_dict(cls, content: Mapping[Any, Any], where: str) -> "Hypothesis":
        """From parsed YAML; ``where`` names the file in messages."""
        parts = {
            "selector": Selector,
            "images": Images,
            "table": TableSettings,
            "tradeoff": TradeoffSettings,
            "support": SupportSettings,
        }
        check_fields(content, fields_fit, where, REMEDY)
        try:
            given = {
                key: _build(parts[key], value, f"{where}: {key}")
                if key in parts
                else _frozen(value)
                for key, value in content.items()
            }
            return _build(cls, given, where)
        except UserError as error:
            text = str(error)
            raise UserError(text if text.startswith(where) else f"{where}: {text}") from error


def digest(content: Any) -> str:
    """SHA-256 of JSON with sorted keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def refuse_overlap(
    discovery: tuple[str, ...] | list[str], test: tuple[str, ...] | list[str]
) -> None:
    """Raises ``UserError`` when an image is in both lists."""
    shared = sorted(set(discovery) & set(test))
    if shared:
        raise UserError(
            f"{len(shared)} images are for discovery and for test, {shared[0]!r} among them: what "
            "was chosen on an image cannot be tested on it, so give each image to one of the two"
        )


def _build(cls: Any, content: Any, where: str) -> Any:
    if not isinstance(content, Mapping):
        raise UserError(f"{where} is {content!r}: give key: value pairs")
    known = {f.name for f in fields(cls)}
    unknown = sorted(set(content) - known)
    if unknown:
        raise UserError(
            f"{where} has the unknown key {unknown[0]!r}: it may have {', '.join(sorted(known))}"
        )
    try:
        return cls(**{key: _typed(key, value) for key, value in content.items()})
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(f"{where} has a value of the wrong type ({error})") from error


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


_NUMBERS = ("alpha", "max_ratio", "smallest_effect", "purity", "doses", "scales")
"""Keys whose values may be written without a decimal point."""


def _typed(key: str, value: Any) -> Any:
    value = _frozen(value)
    if key not in _NUMBERS:
        return value
    try:
        return tuple(float(v) for v in value) if isinstance(value, tuple) else float(value)
    except (TypeError, ValueError) as error:
        raise UserError(f"{key} is {value!r}: it must be a number, or numbers") from error


def _check(name: str, good: bool, value: Any, allowed: str) -> None:
    if not good:
        raise UserError(f"{name} is {value!r}: it must be {allowed}")


def _kinds() -> str:
    return f"one of {', '.join(kind for kind in KINDS if kind != 'swap')} (swap is for Python)"


def read_hypothesis(
    where: str | Path | None, concepts: Any = None, placebo: int | None = None
) -> tuple[Hypothesis, str]:
    """A hypothesis file and its text.

    Args:
        where: a path, or a name in ``conf/hypotheses``; None is a file that says nothing, so that
            everything is at its default.
        concepts: replaces what the file says of them.
        placebo: replaces what the file says of it.

    Raises:
        UserError: no such file, no YAML, or values that are not allowed.
    """
    import yaml

    content: Any = {}
    if where is not None:
        path = Path(where)
        if not path.is_file():
            path = HYPOTHESES_DIR / f"{where}.yaml"
        if not path.is_file():
            known = ", ".join(names("hypotheses"))
            raise UserError(f"hypothesis={where} is no file and none of {known}")
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{path} has more than {MOST_BYTES:,} bytes: shorten it")
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, OSError, ValueError, RecursionError, OverflowError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path} is not YAML ({reason}): correct it") from error
        if not isinstance(content, dict):
            raise UserError(f"hypothesis={where} holds no key: value pairs")
    if concepts is not None:
        content = {**content, "concept": concepts}
    elif where is None:
        raise UserError("nothing is asked: set hypothesis=FILE, or concepts=all")
    if placebo is not None:
        content = {**content, "placebo": placebo}
    found = Hypothesis.from_dict(content, f"hypothesis={where}")
    return found, yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
