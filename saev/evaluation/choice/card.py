"""Model card of a pick."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saev.evaluation.choice.front import Pick
from saev.evaluation.choice.runs import Sweep, SweepRun
from saev.pages.render import fill_template

TEMPLATE = Path(__file__).parent / "model_card.md.j2"

SHOWN = ("val/", "val_all/", "untrained/", "fidelity/kl", "fidelity/agreement", "fidelity/accuracy")
"""Beginnings of the metrics that are on the card; ``metrics.json`` of the run has them all."""


def model_card(
    member: SweepRun, pick: Pick, name: str, version: str, n_members: int, sweep: Sweep
) -> str:
    """README.md next to ``config.json``: what it is, where from, what for, how good, what not."""
    sae = member.sae_config
    recipe = sae.get("recipe") or {}
    metrics = {k: v for k, v in sorted(member.metrics.items()) if k.startswith(SHOWN)}
    images = json.dumps(sae.get("images"), indent=2, sort_keys=True)
    return fill_template(TEMPLATE, {
        "name": name, "version": version, "reason": f"Why this one: {pick.reason}", "sae": sae,
        "recipe": _settings(recipe), "training": _training(member.config, recipe),
        "evaluated": _evaluated(member), "metrics": metrics, "images": images,
        "n_members": n_members, "origin": _origin(member, sweep),
    })  # fmt: skip


def _settings(recipe: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The recipe, flat, without what is not set."""
    flat: dict[str, Any] = {}
    for key, value in recipe.items():
        if isinstance(value, Mapping):
            flat |= _settings(value, f"{prefix}{key}.")
        elif value is not None:
            flat[f"{prefix}{key}"] = value
    return flat


def _training(config: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    """In a line; a learning rate that was ``auto`` is what the recipe says it came to."""
    data, trainer = config.get("data") or {}, config.get("trainer") or {}
    steps, batch = trainer.get("max_steps"), data.get("batch_size")
    seed = f"seed {config.get('seed')}"
    optimizer = (config.get("model") or {}).get("optimizer") or {}
    if not steps or not batch or not optimizer:
        return seed
    rate = recipe.get("lr", optimizer.get("lr"))
    rate = rate if isinstance(rate, str) else f"{rate:g}"
    return f"{steps:,} steps of {batch:,} tokens, learning rate {rate}, {seed}"


def _evaluated(member: SweepRun) -> str:
    limit = (member.config.get("evaluation") or {}).get("n_images")
    which = f"the first {limit:,}" if limit else "all"
    return (
        f"Every image that the source holds out of training ({which}). `val` counts tokens of normal "
        "norm, `val_all` all tokens; `untrained` is a dictionary of the same form with random atoms."
    )


def _origin(member: SweepRun, sweep: Sweep) -> str:
    run = f"MLflow run `{member.run_id}`" if member.run_id else f"run folder `{member.folder.name}`"
    parent = f" (`{sweep.run_id}`)" if sweep.run_id else ""
    return f"{run}, member `{member.label}` of the sweep `{sweep.name}`{parent}."
