"""Types and ranges of what a hypothesis may say, whoever wrote the file."""

from collections.abc import Mapping
from typing import Any

from saev.files import Check, a_list, a_number, a_text, a_whole, an_object, or_null, shown

MOST_DRAWS = 10**6
MOST_ARMS = 10**4
"""Directions, dictionaries and repetitions: each takes memory, or as long as the tested edit."""
AMOUNT = a_number(-1e6, 1e6)
_TEXT = a_text(1000)
_LATENTS = a_list(a_whole(), 1, 10**6)


def _texts(value: Any, name: str) -> str | None:
    return (a_list(_TEXT, 1) if isinstance(value, list | tuple) else _TEXT)(value, name)


def _by_hand(value: Any, name: str) -> str | None:
    """Numbers of latents, or a mapping from concept to such."""
    if not isinstance(value, Mapping):
        return _LATENTS(value, name)
    for concept, latents in value.items():
        if wrong := _TEXT(concept, f"a key of {name}") or _LATENTS(latents, f"{name}.{concept}"):
            return wrong
    return None


def _where(value: Any, name: str) -> str | None:
    if isinstance(value, str):
        return _TEXT(value, name)
    latent = a_whole(0, 10**9)
    known = {"patches": a_list(a_whole(0, 10**6)), "fires": latent, "silent": latent}
    return an_object({}, {**known, "threshold": AMOUNT})(value, name)


EDIT: Check = an_object(
    {},
    {
        "kind": _TEXT,
        "where": _where,
        "latents": _LATENTS,
        **dict.fromkeys(("scale", "factor", "low", "high"), AMOUNT),
    },
)
_EVERY: dict[str, Check] = {
    "concept": _texts,
    "latents": or_null(_by_hand),
    "selector": an_object({}, {"by": _TEXT, "n": a_whole(), "best_of": a_whole()}, more=True),
    "layer": or_null(a_whole(-1000, 1000)),
    "edit": EDIT,
    "tokens": _texts,
    "mode": _TEXT,
    "metric": _TEXT,
    "direction": _TEXT,
    "doses": a_list(AMOUNT, 0, 1000),
    "images": an_object(
        {},
        {
            "discovery": _texts,
            "test": _texts,
            **dict.fromkeys(("n_discovery", "n_test", "n_other"), or_null(a_whole(1))),
        },
        more=True,
    ),
    "alpha": a_number(),
    "draws": or_null(a_whole(1, MOST_DRAWS)),
    "max_ratio": a_number(),
    "directions": or_null(a_whole(0, MOST_ARMS)),
    "shuffles": a_whole(0, MOST_ARMS),
    "baselines": a_list(_TEXT),
    "smallest_effect": a_number(0),
    "table": an_object(
        {},
        {
            "n_latents": a_list(a_whole(1), 0, 1000),
            "scales": a_list(AMOUNT, 0, 1000),
            "draws": a_whole(1, MOST_DRAWS),
        },
        more=True,
    ),
    "untrained": a_whole(0, MOST_ARMS),
    "tradeoff": an_object(
        {}, {"doses": a_list(AMOUNT, 0, 1000), "draws": a_whole(0, MOST_ARMS)}, more=True
    ),
    "calibration": a_whole(-1, MOST_ARMS),
    "placebo": a_whole(-1, MOST_ARMS),
    "power": a_whole(-1, MOST_ARMS),
    "support": an_object(
        {},
        {
            "purity": a_number(0, 1, above=True),
            "n_discovery_units": a_whole(1),
            "n_test_units": a_whole(1),
        },
        more=True,
    ),
    "seed": a_whole(),
}
_KNOWN = an_object({}, _EVERY, more=True)


def fields_fit(value: Any, name: str) -> str | None:
    """A ``Check`` of every key of ``Hypothesis``. Keys that it does not have, choices among words and
    what depends on several keys are left to its constructor."""
    stray = [key for key in value if not isinstance(key, str)] if isinstance(value, Mapping) else []
    return f"{shown(stray[0])} is no key" if stray else _KNOWN(value, name)
