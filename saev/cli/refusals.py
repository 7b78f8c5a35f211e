"""What is refused before anything runs: another command's experiment, a value its key may not have.

An experiment's command is the first in its header, ``# Command:  python -m saev.VERB …``; what a key
may be stands in ``conf/allowed.yaml``.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NoReturn, TypeVar

import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, InterpolationToMissingValueError

from saev.defaults import CONF_DIR, conf_node, names
from saev.errors import UserError

SHARED = {"record": "train"}
"""A verb that takes another's experiments too: recording is the first half of training."""

Kind = TypeVar("Kind")

_COMMAND = re.compile(r"^# Command:\s+python -m saev\.(\w+)", re.M)
_EXPERIMENT = re.compile(r"^\+?experiment=")
_CHOICE = re.compile(r"^(?:\+{0,2}([\w/]+)(?:@[\w.]+)?=|~(\w+)$)")


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


def refuse_options(arguments: Sequence[str]) -> None:
    """Raises ``UserError`` for options that Hydra's parser does not take, which would end in a page on
    how it is used."""

    def complain(message: str) -> NoReturn:
        raise UserError(
            f"{message}; options, such as -m, stand before the first key=value, and --help names them"
        )

    parser = get_args_parser()
    parser.error = complain  # type: ignore[method-assign]
    parser.parse_args(arguments)


def refuse_choices(arguments: Sequence[str]) -> None:
    """Raises ``UserError`` where a group of ``conf/`` is given what is no name of a file: Hydra would end
    in a traceback for a number and leave the node out for an empty list or a ``~``."""
    for argument in arguments:
        found = _CHOICE.match(argument)
        group = "" if found is None else found.group(1) or found.group(2)
        if not group or not (CONF_DIR / group).is_dir():
            continue
        override = _parsed(argument)
        value = "" if override is None or override.is_sweep_override() else override.value()
        if not isinstance(value, str | list) or value == [] or argument.startswith("~"):
            raise UserError(f"{argument} is not allowed; choose one of {', '.join(names(group))}")


def _parsed(argument: str) -> Override | None:
    """None for what is no override, which Hydra reports."""
    try:
        (override,) = OverridesParser.create().parse_overrides([argument])
    except HydraException:
        return None
    return override


def _chosen(argument: str) -> list[str]:
    """Names of experiments in one override: one, several of a sweep, or a pattern."""
    override = _parsed(argument)
    if override is None:
        return []
    value = override.value()
    if isinstance(value, Glob):
        files = (CONF_DIR / "experiment").glob("*.yaml")
        return value.filter(sorted(path.stem for path in files))
    if override.is_sweep_override():
        return [str(one) for one in override.sweep_iterator()]
    return [str(one) for one in (value if isinstance(value, list) else [value])]


def of_kind(key: str, made: Any, *kinds: type[Kind]) -> Kind:
    """What was instantiated from the node under ``key``.

    Raises:
        UserError: it is none of the ``kinds``, as after a ``_target_`` that was mistyped or left out.
    """
    if not isinstance(made, kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise UserError(
            f"{key} makes a {type(made).__name__} and no {wanted}: correct {key}._target_, or leave the "
            "node as conf/ has it"
        )
    return made


class RefuseValues(Callback):
    """Checks the composed configuration before Hydra makes the run folder."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Raises ``SystemExit`` with one sentence; Hydra makes a warning of any other exception."""
        try:
            refuse_missing(config, config.hydra.job.config_name)
            refuse_values(config)
        except Exception as error:
            from saev.cli.sentence import sentence

            raise SystemExit(sentence(error) or repr(error)) from error

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """The same for what all members of a sweep share."""
        self.on_run_start(config)
        subdir = str(OmegaConf.to_container(config.hydra.sweep)["subdir"])  # type: ignore[index,call-overload]
        if "${" not in subdir:
            raise SystemExit(
                f"hydra.sweep.subdir={subdir} is one folder for all members of a sweep, of which the last "
                "would be left; write ${hydra.job.num} into it, or leave it out"
            )


def refuse_values(cfg: DictConfig) -> None:
    """Raises ``UserError`` with key, value and what is allowed for the first value out of range.

    Keys that ``conf/allowed.yaml`` does not know, added with a ``+``, are left to whoever takes them, and
    so are values that are missing or refer to a run folder that is not there yet.
    """
    for key, value in _values(cfg):
        rule = rule_of(key)
        if rule is None:
            continue
        alternatives = [one.strip() for one in rule.split("|")]
        if not any(_is(one, value) for one in alternatives):
            raise UserError(f"{key}={_shown(value)} is not allowed; {_allowed(alternatives)}")


def refuse_missing(cfg: DictConfig, verb: str) -> None:
    """Raises ``UserError`` for a key of ``conf/<verb>.yaml``, or of the chosen ``conf/data``, that was
    deleted with a ``~``."""
    if not (CONF_DIR / f"{verb}.yaml").is_file():
        return
    needed = list(_keys(conf_node(verb)))
    given = OmegaConf.select(cfg, "data._target_")
    for chosen in (conf_node(f"data/{name}") for name in names("data")):
        if given == chosen.get("_target_"):
            needed += _keys(chosen, "data.")
    for key in needed:
        node, _, name = key.rpartition(".")
        parent = OmegaConf.select(cfg, node) if node else cfg
        if isinstance(parent, DictConfig) and name not in list(
            parent
        ):  # where ??? is a key as well
            raise UserError(f"{key} is missing, and {verb} needs it; leave out ~{key}")


def _keys(node: DictConfig, prefix: str = "") -> Iterator[str]:
    for name in node:
        yield f"{prefix}{name}"
        value = node._get_node(name)
        if isinstance(value, DictConfig) and not value._is_none():
            yield from _keys(value, f"{prefix}{name}.")


@cache
def allowed_values() -> Mapping[str, str]:
    """Key or pattern → rule, of ``conf/allowed.yaml``."""
    text = (CONF_DIR / "allowed.yaml").read_text(encoding="utf-8")
    return {key: str(rule) for key, rule in yaml.safe_load(text).items()}


@cache
def rule_of(key: str) -> str | None:
    """The rule for one key of the composed configuration; None where the table has none."""
    table = allowed_values()
    if key in table:
        return table[key]
    for pattern, rule in table.items():
        if "*" in pattern and _matches(pattern, key):
            return rule
        if " as " in f" {rule}" and (below := _matches(f"{pattern}.**", key)):
            return rule_of(f"{rule.rpartition(' ')[2]}.{below.group(1)}")
    return None


@cache
def _regex(pattern: str) -> re.Pattern[str]:
    parts = {"**": "(.+)", "*": "[^.]+"}
    words = [parts.get(part, re.escape(part)) for part in pattern.split(".")]
    if pattern.startswith("*."):
        words[0] = ".+"
    return re.compile(r"\.".join(words))


def _matches(pattern: str, key: str) -> re.Match[str] | None:
    return _regex(pattern).fullmatch(key)


def _values(cfg: DictConfig) -> Iterator[tuple[str, Any]]:
    """Dotted key → plain value of every leaf, and of every node, which is given as an empty mapping.

    Of Hydra's own configuration only what the table knows.
    """
    for name in cfg:
        if name != "hydra":
            yield from _of_key(cfg, str(name), str(name))
    for key in allowed_values() if "hydra" in cfg else ():
        if key.startswith("hydra."):
            node, _, name = key.rpartition(".")
            parent = OmegaConf.select(cfg, node)
            if isinstance(parent, DictConfig) and name in parent:
                yield from _of_key(parent, name, key)


def _of_key(node: DictConfig, name: str, key: str) -> Iterator[tuple[str, Any]]:
    if OmegaConf.is_missing(node, name):
        return
    try:
        value = node[name]
    except InterpolationToMissingValueError:
        return
    except InterpolationResolutionError as error:
        if "HydraConfig was not set" not in str(error):
            raise
        return  # ${hydra:runtime.output_dir}, before there is one
    rule = rule_of(key)
    if isinstance(value, DictConfig) and (rule is None or re.search(r"\b(node|as \w+)$", rule)):
        if rule is not None:
            yield key, {}
        for below in value:
            yield from _of_key(value, str(below), f"{key}.{below}")
    elif isinstance(value, DictConfig | ListConfig):
        yield key, OmegaConf.to_container(value, resolve=rule != "any")
    else:
        yield key, value


def _is(rule: str, value: Any) -> bool:
    """Whether a value is what one alternative of a rule asks for."""
    kind, _, rest = rule.partition(" ")
    match kind:
        case "any":
            return True
        case "null":
            return value is None
        case "node" | "as":
            return isinstance(value, Mapping)
        case "flag":
            return isinstance(value, bool)
        case "string":
            return isinstance(value, str) and bool(value.strip())
        case "path":
            return isinstance(value, str) and bool(value.strip()) and "\0" not in value
        case "target":
            return isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w.]*", value) is not None
        case "list":
            kinds = rest.removeprefix("of ").split(" or ")
            return isinstance(value, list) and all(
                any(_is(inner, one) for inner in kinds) for one in value
            )
        case "mapping":
            inner = rest.removeprefix("of ")
            return isinstance(value, dict) and all(_is(inner, one) for one in value.values())
        case "whole":
            return isinstance(value, int) and not isinstance(value, bool) and _within(rest, value)
        case "number":
            plain = isinstance(value, int | float) and not isinstance(value, bool)
            return plain and math.isfinite(value) and _within(rest, value)
    return not isinstance(value, bool) and str(value) in rule.split("/")


def _within(limits: str, value: float | int) -> bool:
    """Whether a number keeps to "from A", "above A", "to B", "below B"."""
    words = limits.split()
    for word, limit in zip(words[::2], map(float, words[1::2]), strict=True):
        keeps = {
            "from": value >= limit,
            "above": value > limit,
            "to": value <= limit,
            "below": value < limit,
        }
        if not keeps[word]:
            return False
    return True


def _allowed(alternatives: Sequence[str]) -> str:
    words = [_in_words(one) for one in alternatives]
    return (
        f"it may be {', '.join(words[:-1])} or {words[-1]}"
        if words[1:]
        else f"it must be {words[0]}"
    )


_WORDS = {
    "whole": ("a whole number", "whole numbers"),
    "number": ("a finite number", "finite numbers"),
    "flag": ("true or false", "true or false"),
    "string": ("text", "texts"),
    "path": ("a path", "paths"),
    "target": ("the dotted name of a class", "names of classes"),
    "node": ("a mapping of keys", "mappings"),
    "as": ("a mapping of keys", "mappings"),
}
"""How a kind is called, one and several."""


def _in_words(rule: str) -> str:
    kind, _, rest = rule.partition(" ")
    if kind in ("list", "mapping"):
        kind_of_each, _, limits = rest.removeprefix("of ").partition(" ")
        several = _WORDS[kind_of_each][1] if kind_of_each in _WORDS else kind_of_each
        return f"a {kind} of {several} {limits}".strip()
    if kind in ("node", "as") or kind not in _WORDS:
        rest = ""
    return f"{_WORDS[kind][0]} {rest}".strip() if kind in _WORDS else rule


def _shown(value: Any) -> str:
    """As one would type it, cut short."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
