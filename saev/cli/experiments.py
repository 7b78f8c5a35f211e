"""Whose experiment it is: the first command in a file's header, ``# Command:  python -m saev.VERB …``."""

import re
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from hydra.errors import HydraException

from saev.defaults import CONF_DIR
from saev.errors import UserError

SHARED = {"record": "train"}
"""A verb that takes another's experiments too: recording is the first half of training."""

_COMMAND = re.compile(r"^# Command:\s+python -m saev\.(\w+)", re.M)
_EXPERIMENT = re.compile(r"^\+?experiment=")


def verb_of(experiment: str) -> str | None:
    """The verb that ``conf/experiment/<experiment>.yaml`` is written for; None where there is no such
    file, or it does not say."""
    path = CONF_DIR / "experiment" / f"{experiment}.yaml"
    if not path.is_file():
        return None
    found = _COMMAND.search(path.read_text(encoding="utf-8"))
    return found.group(1) if found else None


def refuse_foreign_experiments(verb: str, arguments: Sequence[str]) -> None:
    """Raises ``UserError`` where the command line asks ``verb`` for another verb's experiment.

    Looked at before anything is composed: Hydra would complain of the first key that the verb lacks.
    """
    for argument in arguments:
        if not _EXPERIMENT.match(argument):
            continue
        for name in _chosen(argument):
            owner = verb_of(name)
            if owner not in (None, verb, SHARED.get(verb)):
                raise UserError(
                    f"experiment={name} belongs to another command: "
                    f"python -m saev.{owner} +experiment={name}"
                )


def _chosen(argument: str) -> list[str]:
    """Names of experiments in one override: one, several of a sweep, or a pattern."""
    try:
        (override,) = OverridesParser.create().parse_overrides([argument])
    except HydraException:
        return []  # for Hydra to report
    value = override.value()
    if isinstance(value, Glob):
        files = (CONF_DIR / "experiment").glob("*.yaml")
        return value.filter(sorted(path.stem for path in files))
    if override.is_sweep_override():
        return [str(one) for one in override.sweep_iterator()]
    return [str(one) for one in (value if isinstance(value, list) else [value])]
