"""Argument checks of ``SAETraining``, made before any data is read."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from saev.sae import SAEConfig
from saev.sae.decoders import ArchetypalAtoms, FrozenAtoms, UnitAtoms
from saev.sae.initialize import ATOM_INITS, BIAS_INITS, ENCODER_INITS
from saev.sae.objectives import Objective
from saev.training.schedules import DECAY_SHAPES


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Raises ValueError with the config key, the value and what is allowed."""
    for name in ("l1_coefficient", "aux_coefficient", "l1_warmup_steps", "lr_warmup_steps"):
        if not arguments[name] >= 0:
            raise ValueError(f"model.{name} must be 0 or more, got {arguments[name]}.")
    for name in ("dead_after_tokens", "k_aux", "lr_reference_width"):
        value = arguments[name]
        if value is not None and value < 1:
            raise ValueError(f"model.{name} must be at least 1, got {value}.")
    fraction = arguments["lr_decay_fraction"]
    if not 0 <= fraction <= 1:
        raise ValueError(f"model.lr_decay_fraction must lie in [0, 1], got {fraction}.")
    for name in ("bandwidth", "threshold_lr_factor"):
        if not arguments[name] > 0:
            raise ValueError(f"model.{name} must be positive, got {arguments[name]}.")
    for name, allowed in (
        ("bias_init", BIAS_INITS),
        ("encoder_init", ENCODER_INITS),
        ("atom_init", ATOM_INITS),
        ("lr_decay_shape", DECAY_SHAPES),
    ):
        if arguments[name] not in allowed:
            choices = ", ".join(allowed)
            raise ValueError(f"model.{name} must be one of {choices}, got {arguments[name]!r}.")


def check_optimizer(make: Callable[..., Optimizer]) -> None:
    """Builds it once on a dummy; raises ValueError where that fails or the rate is not positive."""
    lr = getattr(make, "keywords", {}).get("lr")
    if lr is not None and not lr > 0:
        raise ValueError(f"model.optimizer.lr must be a positive number, got {lr}.")
    try:
        make([nn.Parameter(torch.zeros(1))])
    except (ValueError, TypeError) as error:
        raise ValueError(f"model.optimizer cannot be built: {error}.") from error


def check_end(arguments: Mapping[str, Any], objective: Objective, n_steps: float | int) -> None:
    """Raises ValueError where a schedule needs to know the end of a run that has none.

    Args:
        n_steps: of the run; −1 or infinity, as Lightning answers by loader, for one without an end.
    """
    if 0 < n_steps < float("inf"):
        return
    for kind, needs_end in (
        ("model.lr_decay_fraction", arguments["lr_decay_fraction"] > 0),
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


def make_config(
    d_model: int, d_sae: int, activation: str, k: int | float | None, subtract_b_dec: bool = True
) -> SAEConfig:
    """The config, or its ValueError with the config key in front."""
    try:
        return SAEConfig(d_model, d_sae, activation, k, subtract_b_dec)
    except ValueError as error:
        raise ValueError(f"model.{error}") from error


def check_together(
    cfg: SAEConfig,
    objective: Objective | None,
    decoder: UnitAtoms,
    arguments: Mapping[str, Any],
) -> None:
    """Raises ValueError with the reason where two choices make no sense together."""
    if objective is not None:
        try:
            objective.check(cfg)
        except ValueError as error:
            raise ValueError(f"model.{error}") from error
        if arguments["l1_coefficient"] > 0:
            raise ValueError(
                "model.l1_coefficient has no effect beside model.objective, got "
                f"{arguments['l1_coefficient']}; set the objective's own coefficient."
            )
    elif cfg.activation in NEEDS_OBJECTIVE:
        raise ValueError(
            f"model.objective must be given for activation={cfg.activation}: without it nothing "
            f"trains its {NEEDS_OBJECTIVE[cfg.activation]}; see conf/model/{cfg.activation}.yaml."
        )
    if cfg.activation != "jump_relu":
        for name, default in (("start_threshold", None), ("jump_to_input", False)):
            if arguments[name] != default:
                raise ValueError(
                    f"model.{name} is for activation=jump_relu, got {arguments[name]} with "
                    f"activation={cfg.activation}."
                )
    elif (start := arguments["start_threshold"]) is not None and not start >= 0:
        raise ValueError(f"model.start_threshold must be 0 or more, got {start}.")
    _check_decoder(cfg, objective, decoder, arguments)


NEEDS_OBJECTIVE = {"jump_relu": "thresholds", "gated": "gate"}


def _check_decoder(
    cfg: SAEConfig, objective: Objective | None, decoder: UnitAtoms, arguments: Mapping[str, Any]
) -> None:
    kind = type(decoder).__name__
    weighted = objective.norm_weighted if objective is not None else True
    if not decoder.unit and (cfg.activation not in ("relu", "jump_relu") or not weighted):
        raise ValueError(
            f"model.decoder={kind} lets atoms have any norm, which activation={cfg.activation} with "
            "this objective does not count in; use it with relu or jump_relu and an objective "
            "whose penalty is weighted by norms (L1, TanhPenalty)."
        )
    if isinstance(decoder, FrozenAtoms | ArchetypalAtoms) and arguments["atom_init"] != "random":
        raise ValueError(
            f"model.atom_init={arguments['atom_init']} has no effect with model.decoder={kind}, "
            "which has a start of its own."
        )
