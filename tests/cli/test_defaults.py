"""A default is written down once: in conf/ where a command sets it, else in the signature."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any

import pytest
from omegaconf import OmegaConf

from saev.atlas.settings import AtlasSettings, NamingSettings
from saev.comparison.members import CompareSettings
from saev.defaults import CONF_DIR, conf_node, defaults, names
from saev.evaluation.baselines.methods import BaselineSettings
from saev.evaluation.choice.outcome import ChoiceSettings
from saev.evaluation.visaebench.settings import BenchmarkSettings

OURS = ("saev.", "callbacks.", "datamodules.")
SETTINGS = {
    AtlasSettings: ("describe", "atlas"),
    NamingSettings: ("describe", "naming"),
    CompareSettings: ("compare", "comparison"),
    BaselineSettings: ("evaluate", "baselines"),
    ChoiceSettings: ("evaluate", "choice"),
    BenchmarkSettings: ("evaluate", "visaebench"),
}
BY_HAND = (
    "people and `more_images` build it from a few arguments; test_images_conf holds both equal"
)
KEPT = {
    "saev.backbones.load_backbone": "called by hand with a name alone",
    "datamodules.images.FolderImages": BY_HAND,
    "datamodules.images.ScenesImages": BY_HAND,
    "datamodules.images.SegmentationImages": BY_HAND,
    "datamodules.images.WebDatasetImages": BY_HAND,
    "datamodules.images.torchvision_sets.TorchvisionImages": BY_HAND,
    "saev.training.sae_module.SAETraining.aux_coefficient": "0 switches off what model/sae.yaml has",
    "saev.training.head_module.SegmentationTraining.features": "by hand there is nothing to choose; "
    "a command has to know it before it can build the module",
}
"""What keeps its defaults in the signature as well, and why."""


def targets(value: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every node that names what is built from it, with where it is."""
    if not isinstance(value, dict):
        return
    if "_target_" in value:
        yield path, value
    for key, inner in value.items():
        yield from targets(inner, f"{path}.{key}")


def twice(build: Callable[..., Any], keys: Mapping[str, Any]) -> list[str]:
    """The keys whose value is also the signature's default.

    null for None is not a value: the key stands in the file so that a command can set it.
    """
    known = inspect.signature(build).parameters
    return [
        key
        for key, value in keys.items()
        if key in known and value is not None and known[key].default == value
    ]


def found(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


def files() -> list[str]:
    paths = (path.relative_to(CONF_DIR).with_suffix("") for path in CONF_DIR.rglob("*.yaml"))
    return sorted(str(path) for path in paths if path.parts[0] not in ("experiment", "hypotheses"))


@pytest.mark.parametrize("name", files())
def test_no_default_is_in_a_signature_too(name: str) -> None:
    for path, keys in targets(OmegaConf.to_container(conf_node(name), resolve=False)):
        target = keys["_target_"]
        if target.startswith(OURS) and target not in KEPT:
            doubled = [key for key in twice(found(target), keys) if f"{target}.{key}" not in KEPT]
            assert not doubled, f"{name}{path}: {target} has the same defaults for {doubled}"


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: settings.__name__)
def test_settings_have_the_keys_of_their_node_and_no_default(settings: type) -> None:
    name, key = SETTINGS[settings]
    fields = inspect.signature(settings).parameters
    assert set(OmegaConf.to_container(conf_node(name)[key])) == set(fields) - {"seed"} | (
        {"seed"} if "seed" in conf_node(name)[key] else set()
    )
    with_default = [k for k, field in fields.items() if field.default is not field.empty]
    assert not with_default


def test_a_planted_double_is_found() -> None:
    def build(size: int, depth: int = 3, limit: int | None = None) -> None: ...

    assert twice(build, {"size": 3, "depth": 3, "limit": None}) == ["depth"]
    assert twice(build, {"size": 3, "depth": 4, "limit": 5}) == []


def test_what_is_kept_still_has_defaults() -> None:
    used = {
        keys["_target_"]
        for name in files()
        for _, keys in targets(OmegaConf.to_container(conf_node(name), resolve=False))
    }
    assert {name for name in KEPT if name.rpartition(".")[0] not in used} <= used


def test_defaults_are_plain_values_of_the_right_type() -> None:
    atlas = defaults("describe", "atlas")
    assert atlas["fdr"] == 0.05 and atlas["shard"] == [0, 1] and type(atlas["shard"]) is list
    assert "seed" not in atlas  # ${seed} is for the caller to give
    assert defaults("trainer/gpu")["accelerator"] == "gpu"  # a base of the same folder
    assert defaults("trainer/gpu")["max_steps"] == 600
    assert "defaults" not in defaults("train")
    assert defaults("train", "evaluation") == defaults("evaluate", "evaluation")
    lr = conf_node("model/relu").optimizer.lr
    assert isinstance(lr, float)  # 1e-3, which PyYAML by itself reads as a string
    assert {"folder", "scenes"} <= set(names("images"))
    with pytest.raises(FileNotFoundError):
        defaults("nothing")
    with pytest.raises(KeyError):
        defaults("train", "nothing")
