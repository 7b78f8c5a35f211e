"""Backbones from what a file says: known keys, plain values within limits, or one sentence."""

from pathlib import Path
from typing import Any

import pytest

from saev.backbones import load_backbone
from saev.backbones.from_spec import backbone_from_spec, checked_spec
from saev.backbones.open_clip_config import Model
from saev.defaults import CONF_DIR, defaults
from saev.errors import UserError

MICRO: dict[str, Any] = {"family": "timm", "name": "micro", "weights": "embedded", "layer": -2}


@pytest.mark.parametrize("name", sorted(p.stem for p in (CONF_DIR / "backbone").glob("*.yaml")))
def test_every_backbone_of_conf_may_be_named(name: str) -> None:
    content = defaults(f"backbone/{name}")
    checked_spec({key: value for key, value in content.items() if key != "_target_"}, "it")


def test_what_a_backbone_keeps_of_itself_rebuilds_it() -> None:
    made = load_backbone("micro", layer=3, crop_pct=0.9)
    again = backbone_from_spec(made.spec, "it")
    assert again.spec == made.spec and again.weights == made.weights
    assert backbone_from_spec(made.spec, "it", layer=1).layer == 1
    small = {"embed_dim": 64, "depth": 2, "num_heads": 2, "act_layer": "gelu"}
    spec = {**MICRO, "weights": "random", "model_kwargs": small}
    assert backbone_from_spec(spec, "it").width == 64


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"_target_": "os.system"}, "'_target_' is none of its keys"),
        ({"family": "torch.hub"}, "family is 'torch.hub'"),
        ({"family": 5}, "family is 5"),
        ({"name": ["micro"]}, "name is"),
        ({"name": "micro\0"}, "name is"),
        ({"layer": "4"}, "layer is '4'"),
        ({"layer": True}, "layer is True"),
        ({"layer": 1e9}, "layer is 1000000000.0"),
        ({"seed": -1}, "seed is -1"),
        ({"weights": {"sha256": 0}}, "weights is"),
        ({"image_size": 10**6}, "image_size is 1000000"),
        ({"image_size": [96, float("nan")]}, "image_size"),
        ({"crop_pct": 1e-9}, "crop_pct is 1e-09"),
        ({"std": [0, 1, 1]}, "std"),
        ({"mean": [0.5, 0.5]}, "a list of 3 entries"),
        ({"model_kwargs": []}, "model_kwargs is []"),
        ({"model_kwargs": {"checkpoint_path": "/etc/passwd"}}, "'checkpoint_path' is none of"),
        ({"model_kwargs": {"pretrained_cfg": {"url": "http://x"}}}, "'pretrained_cfg' is none of"),
        ({"model_kwargs": {"depth": 10**9}}, "depth is 1000000000"),
        ({"model_kwargs": {"depth": 10**5}}, "a model of 1.3e+12 weights"),
        ({"model_kwargs": {"embed_dim": 10**6}}, "weights"),
        ({"model_kwargs": {"patch_size": 0.5}}, "patches of an image"),
        ({"model_kwargs": {"img_size": 10**5}}, "patches of an image"),
        ({"model_kwargs": {"class_token": {"a": 1}}}, "class_token is"),
        ({"model_kwargs": {"text_cfg": {"tokenizer_kwargs": {"trust_remote_code": True}}}},
         "tokenizer_kwargs has 'trust_remote_code'"),
    ],
)  # fmt: skip
def test_what_no_file_may_ask_for_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(
        UserError, match=r"^the backbone that its/sae names does not fit: "
    ) as found:
        backbone_from_spec({**MICRO, **change}, "its/sae")
    assert words in str(found.value)


@pytest.mark.parametrize("spec", [None, [], "micro", {}, {"name": "micro"}])
def test_what_is_no_spec_is_refused(spec: Any) -> None:
    with pytest.raises(UserError, match=r"^the backbone that it names does not fit: "):
        backbone_from_spec(spec, "it")


@pytest.mark.parametrize(
    "options", [{"num_heads": 3}, {"act_layer": "no such"}, {"mlp_ratio": None}, {"num_heads": 0}]
)
def test_what_a_constructor_refuses_is_one_sentence(options: dict[str, Any]) -> None:
    with pytest.raises(UserError) as found:
        backbone_from_spec({**MICRO, "weights": "random", "model_kwargs": options}, "it")
    assert "\n" not in str(found.value)


def test_a_tokenizer_runs_no_code_of_a_repository(tmp_path: Path) -> None:
    text = {"hf_tokenizer_name": "a/b", "tokenizer_kwargs": {"trust_remote_code": True}}
    model = Model("ViT", {"text_cfg": text}, {}, None, {}, None)
    with pytest.raises(UserError, match="asks for trust_remote_code, which is not passed on"):
        model.tokenizer()
