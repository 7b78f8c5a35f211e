"""conf/images: a file's keys are its class's arguments; the overrides that scripts rely on."""

import inspect

import pytest
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError
from PIL import Image

from datamodules.images.from_spec import source_from_spec
from saev.defaults import conf_node, names

NAMES = sorted(set(names("images")) - {"torchvision"})  # the base of six, nothing by itself
OWN_VALUES = {"roots", "urls", "dataset", "root", "cache_dir"}
"""Keys that a file sets by itself; all others state what the signature states."""


def compose(name: str, *overrides: str):
    config = OmegaConf.create({"paths": {"outputs": "outputs"}})
    config.images = conf_node(f"images/{name}")
    OmegaConf.set_struct(config, True)
    for override in overrides:
        key, _, value = override.partition("=")
        OmegaConf.update(config, f"images.{key}", OmegaConf.create(f"x: {value}").x)
    return config.images


def test_every_source_has_a_file():
    own = {"folder", "scenes", "segmentation", "webdataset"}
    assert set(NAMES) == own | {"cifar10", "cifar100", "flowers102", "food101"} | {
        "imagenette",
        "oxford_pet",
    }


@pytest.mark.parametrize("name", NAMES)
def test_keys_are_the_constructors_arguments(name):
    config = compose(name)
    parameters = inspect.signature(get_class(config._target_)).parameters
    assert {str(key) for key in config} - {"_target_"} == set(parameters)
    for key, parameter in parameters.items():
        if key not in OWN_VALUES:
            assert OmegaConf.select(config, key) == parameter.default, key


@pytest.mark.parametrize("name", ["folder", "segmentation"])
def test_no_roots_says_what_to_set(name):
    with pytest.raises(InstantiationException, match=r"set images\.roots=\["):
        instantiate(compose(name))


def test_the_overrides_scripts_rely_on(tmp_path):
    for root in "ab":
        for number in range(6):
            path = tmp_path / root / "cat" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (2, 2)).save(path)
    roots = f"roots=[{tmp_path}/a,{tmp_path}/b]"
    source = instantiate(compose("folder", roots, "labels=folder", "n_images=8", "on_error=skip"))
    assert len(source.items) == 8
    assert source.class_names == ["cat"]
    assert source.on_error == "skip"
    assert source_from_spec(source.spec(), "it").items == source.items
    with pytest.raises(ConfigAttributeError, match="n_image"):
        compose("folder", "n_image=8")


def test_scenes_under_a_limit():
    assert len(instantiate(compose("scenes", "n_images=15")).items) == 15
