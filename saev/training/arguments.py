"""Arguments of ``SAETraining``: its three nodes, and what is refused before any data is read; callbacks."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import lightning as L
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn
from torch.optim import Optimizer

from saev.cli.refusals import of_kind
from saev.sae import SAEConfig
from saev.sae.atoms import ArchetypalAtoms, FrozenAtoms, UnitAtoms
from saev.sae.config import ACTIVATIONS, READ_ACTIVATIONS
from saev.sae.initialize import ATOM_INITS, BIAS_INITS, ENCODER_INITS
from saev.sae.objectives import Objective

DECAY_SHAPES = ("linear", "cosine")

AUTO = "auto"
"""``optimizer.lr`` by ``saev.training.schedules.adam_rate``."""

Node = TypeVar("Node")


@dataclass(frozen=True)
class Initialization:
    """Where weights start; see ``saev.sae.initialize``."""

    encoder: str
    """"transpose", "best_gain", "unit_gain" or "kaiming"."""
    bias: str
    """b_dec: "mean", "geometric_median" or "zero" of the starting pool."""
    atoms: str = "random"
    """"random", or "data": directions of inputs; encoder rows follow."""

    def __post_init__(self) -> None:
        _one_of("init.encoder", self.encoder, ENCODER_INITS)
        _one_of("init.bias", self.bias, BIAS_INITS)
        _one_of("init.atoms", self.atoms, ATOM_INITS)


@dataclass(frozen=True)
class LearningRate:
    """The course of the optimiser's learning rate."""

    warmup_steps: int
    """It rises linearly from 0 over so many steps."""
    decay_fraction: float | int
    """It falls to 0 over this last part of the run."""
    decay_shape: str = "linear"
    """Or "cosine"."""
    encoder_factor: float | int = 1.0
    """The encoder's rows learn so many times faster than the rest."""
    reference_width: int | None = None
    """The optimiser's rate is that of a dictionary with so many latents; it is multiplied by
    √(reference_width / d_sae) (Gao et al. 2024, A.3). None: it is that of this one."""

    def __post_init__(self) -> None:
        _not_negative("learning_rate.warmup_steps", self.warmup_steps)
        if not 0 <= self.decay_fraction <= 1:
            raise ValueError(
                f"model.learning_rate.decay_fraction must lie in [0, 1], got {self.decay_fraction}."
            )
        if not self.encoder_factor > 0:
            raise ValueError(
                f"model.learning_rate.encoder_factor must be positive, got {self.encoder_factor}."
            )
        _one_of("learning_rate.decay_shape", self.decay_shape, DECAY_SHAPES)
        _positive_count("learning_rate.reference_width", self.reference_width)


@dataclass(frozen=True)
class JumpReLUTraining:
    """How the thresholds of JumpReLU are trained."""

    start_threshold: float | int | None
    """Normalised units; None: all where the L0 is k on the starting pool, or at 0.001·√d (the
    source's, in our units) without a k."""
    bandwidth: float | int
    """Width of the ramp that gives thresholds a gradient, normalised units."""
    jump_to_input: bool = False
    """Whether the jump has a gradient towards the pre-activation, too."""
    threshold_lr_factor: float | int = 1.0
    """Thresholds learn so many times faster than the rest: a step of Adam moves every number by
    about the learning rate, and thresholds are large numbers."""

    def __post_init__(self) -> None:
        if self.start_threshold is not None:
            _not_negative("jump_relu.start_threshold", self.start_threshold)
        for name in ("bandwidth", "threshold_lr_factor"):
            if not getattr(self, name) > 0:
                raise ValueError(
                    f"model.jump_relu.{name} must be positive, got {getattr(self, name)}."
                )


def node(kind: type[Node], name: str, values: Node | Mapping[str, Any]) -> Node:
    """``values`` as the dataclass ``kind``, of which they may be the fields.

    Raises:
        ValueError: a field that is missing or unknown, with the config key.
    """
    if isinstance(values, kind):
        return values
    assert isinstance(values, Mapping)
    known = [field.name for field in fields(kind)]  # pyright: ignore[reportArgumentType]
    if unknown := [key for key in values if key not in known]:
        allowed = ", ".join(known)
        raise ValueError(f"model.{name}.{unknown[0]} is unknown; model.{name} takes {allowed}.")
    try:
        return kind(**values)
    except TypeError as error:  # its message names what is missing
        raise ValueError(f"model.{name} is not complete: {error}.") from error


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        choices = ", ".join(allowed)
        raise ValueError(f"model.{name} must be one of {choices}, got {value!r}.")


def _not_negative(name: str, value: float | int) -> None:
    if not value >= 0:
        raise ValueError(f"model.{name} must be 0 or more, got {value}.")


def _positive_count(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise ValueError(f"model.{name} must be at least 1, got {value}.")


def check_dead_latents(
    dead_after_tokens: int, aux_coefficient: float | int, k_aux: int | None
) -> None:
    """Raises ValueError with the config key, the value and what is allowed."""
    _not_negative("aux_coefficient", aux_coefficient)
    _positive_count("dead_after_tokens", dead_after_tokens)
    _positive_count("k_aux", k_aux)


def callbacks_of(cfg: DictConfig) -> list[L.Callback]:
    """Builds those of ``cfg.callbacks``; raises UserError for what is none of Lightning's."""
    return [
        of_kind(f"callbacks.{name}", instantiate(node), L.Callback)
        for name, node in (cfg.callbacks or {}).items()
        if node is not None
    ]


def given_rate(make: Callable[..., Optimizer]) -> float | str | None:
    """``lr`` that a partial of an optimizer was given; None where it was not."""
    return getattr(make, "keywords", {}).get("lr")


def check_optimizer(make: Callable[..., Optimizer]) -> None:
    """Builds it once on a dummy; raises ValueError where that fails or the rate is not positive."""
    lr = given_rate(make)
    if lr == AUTO:
        kind = getattr(make, "func", None)
        if not (isinstance(kind, type) and issubclass(kind, torch.optim.Adam)):
            raise ValueError(
                f"model.optimizer.lr={AUTO} is a law for Adam; give a number for {kind}."
            )
        make = functools.partial(make, lr=1.0)
    elif lr is not None and not (isinstance(lr, float | int) and lr > 0):
        raise ValueError(f"model.optimizer.lr must be a positive number or {AUTO}, got {lr}.")
    try:
        make([nn.Parameter(torch.zeros(1))])
    except (ValueError, TypeError) as error:
        raise ValueError(f"model.optimizer cannot be built: {error}.") from error


def check_end(
    rate: LearningRate, objective: Objective, n_steps: float | int, *, auto: bool = False
) -> None:
    """Raises ValueError where a schedule needs to know the end of a run that has none.

    Args:
        n_steps: of the run; −1 or infinity, as Lightning answers by loader, for one without an end.
        auto: whether the learning rate follows from the length of the run.
    """
    if 0 < n_steps < float("inf"):
        return
    for kind, needs_end in (
        ("model.learning_rate.decay_fraction", rate.decay_fraction > 0),
        (f"model.optimizer.lr={AUTO}", auto),
        (type(objective).__name__, objective.needs_end),
    ):
        if needs_end:
            raise ValueError(f"{kind} needs to know the end of the run; set trainer.max_steps.")


def count_latents(d_model: int, d_sae: int | None, expansion: float | int | None) -> int:
    """d_sae, or the multiple of d_model; raises ValueError when that is no positive number."""
    if d_sae is None and expansion is None:
        raise ValueError("One of model.d_sae and model.expansion must be given, got neither.")
    n_latents = d_sae if d_sae is not None else round((expansion or 0) * d_model)
    if n_latents < 1:
        name, value = ("d_sae", d_sae) if d_sae is not None else ("expansion", expansion)
        raise ValueError(f"model.{name} must give at least 1 latent, got {value}.")
    return n_latents


def make_objective(given: Objective | Mapping[str, Any] | None) -> Objective:
    """The objective, or the squared error alone where none is given.

    Raises:
        ValueError: a mapping: keys of an objective without its class, as when an experiment sets
            ``model.objective.coefficient`` and another model is chosen.
    """
    if given is None:
        return Objective()
    if not isinstance(given, Objective):
        raise ValueError(
            f"model.objective must name its class as _target_, got {dict(given)}; choose the model "
            "whose objective has these keys, or set model.objective=null."
        )
    return given


def make_config(
    d_model: int, d_sae: int, activation: str, k: int | float | None, subtract_b_dec: bool
) -> SAEConfig:
    """The config, or its ValueError with the config key in front; only what can be trained."""
    if activation in READ_ACTIVATIONS:
        raise ValueError(
            f"model.activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}, which is "
            "read from dictionaries of other libraries and not trained here."
        )
    try:
        return SAEConfig(d_model, d_sae, activation, k, subtract_b_dec)
    except ValueError as error:
        raise ValueError(f"model.{error}") from error


NEEDS_OBJECTIVE = {"jump_relu": "thresholds", "gated": "gate"}


def check_together(
    cfg: SAEConfig,
    objective: Objective,
    decoder: UnitAtoms,
    jump_relu: JumpReLUTraining | None,
    init: Initialization,
) -> None:
    """Raises ValueError with the reason where two choices make no sense together."""
    try:
        objective.check(cfg)
    except ValueError as error:
        raise ValueError(f"model.{error}") from error
    if cfg.activation in NEEDS_OBJECTIVE and type(objective) is Objective:
        raise ValueError(
            f"model.objective must be given for activation={cfg.activation}: without it nothing "
            f"trains its {NEEDS_OBJECTIVE[cfg.activation]}; see conf/model/{cfg.activation}.yaml."
        )
    if cfg.activation == "jump_relu" and jump_relu is None:
        raise ValueError(
            "model.jump_relu must be given for activation=jump_relu; see conf/model/jump_relu.yaml."
        )
    if cfg.activation != "jump_relu" and jump_relu is not None:
        raise ValueError(
            f"model.jump_relu is for activation=jump_relu, got {jump_relu} with "
            f"activation={cfg.activation}."
        )
    kind = type(decoder).__name__
    if not decoder.unit and not (
        cfg.activation in ("relu", "jump_relu") and objective.norm_weighted
    ):
        raise ValueError(
            f"model.decoder={kind} lets atoms have any norm, which activation={cfg.activation} with "
            "this objective does not count in; use it with relu or jump_relu and an objective "
            "whose penalty is weighted by norms (L1Penalty, TanhPenalty)."
        )
    if isinstance(decoder, FrozenAtoms | ArchetypalAtoms) and init.atoms != "random":
        raise ValueError(
            f"model.init.atoms={init.atoms} has no effect with model.decoder={kind}, which has a "
            "start of its own."
        )
