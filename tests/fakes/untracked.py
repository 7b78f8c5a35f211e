"""Commands without MLflow, unless a test asks for it."""

from collections.abc import Sequence

NEVER_TRACKED = ("explore", "convert")
"""Commands that have no logger to switch off."""


def untracked(verb: str, overrides: Sequence[str]) -> list[str]:
    """The overrides, with ``logger=none`` where they say nothing of the logger."""
    told = any(override.startswith(("logger=", "logger.")) for override in overrides)
    return [*overrides] if told or verb in NEVER_TRACKED else [*overrides, "logger=none"]
