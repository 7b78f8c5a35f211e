"""Dictionaries by path, by place on a hub, by name, and as objects."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from saev.errors import UserError
from saev.interop import open_sae
from saev.interop.belongs import origin_place
from saev.interop.foreign import Origin
from saev.interop.registry import known
from tests.fakes.dictionary import make_sae
from tests.fakes.hub import Hub

DATA = Path(__file__).parent / "data"
SAELENS = DATA / "saelens_topk" / "saved"


def refused(part: str, source: object, **choices: object) -> None:
    with pytest.raises(UserError, match=part) as caught:
        open_sae(source, **choices)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_ours_open_as_they_did(tmp_path: Path) -> None:
    folder = make_sae(tmp_path / "sae", 0)
    assert open_sae(folder).cfg == open_sae(folder / "weights.safetensors").cfg
    assert open_sae(str(folder)).cfg.recipe == {}


def test_the_file_alone_is_enough() -> None:
    a, b = open_sae(SAELENS), open_sae(SAELENS / "sae_weights.safetensors")
    assert torch.equal(a.W_enc, b.W_enc) and a.cfg.k == b.cfg.k == 3


def test_backbone_layer_and_tokens_are_said_or_set() -> None:
    sae = open_sae(SAELENS)
    assert sae.cfg.layer == 5 and sae.cfg.backbone is None
    assert any("none of the vision models" in line for line in sae.cfg.recipe["imported"]["said"])
    sae = open_sae(SAELENS, backbone="clip_b16", layer=7, tokens="patch")
    assert sae.cfg.backbone is not None
    assert sae.cfg.backbone["spec"]["pretrained_tag"] == "openai"
    assert (sae.cfg.layer, sae.cfg.tokens) == (7, {"which": "patch"})
    refused("there is no backbone 'clip_b17'", SAELENS, backbone="clip_b17")
    refused("tokens='cls'", SAELENS, tokens="cls")


@pytest.mark.parametrize(
    ("hook", "layer", "words"),
    [
        ("blocks.9.hook_resid_post", 9, "output of block 9, counted from 0"),
        ("vision_model.encoder.layers.10", 10, "output of block 10"),
        ("visual.transformer.resblocks.3", 3, "output of block 3"),
        ("blocks.4.hook_resid_pre", 3, "output of block 3"),
        ("blocks.4.hook_mlp_out", None, "inside a block"),
        ("blocks.0.hook_resid_pre", None, "inside a block"),
        ("ln_final", None, "no block"),
    ],
)
def test_layers_are_counted_our_way(hook: str, layer: int | None, words: str) -> None:
    place, said = origin_place(Origin(hook=hook))
    assert place.layer == layer and words in said[0]


def test_models_by_the_names_of_others() -> None:
    place, _ = origin_place(Origin(model="openai/clip-vit-base-patch16"))
    assert place.backbone is not None and place.backbone["name"] == "ViT-B-16"
    place, _ = origin_place(Origin(model="open-clip:laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K"))
    assert place.backbone is not None
    assert place.backbone["spec"]["pretrained_tag"] == "datacomp_xl_s13b_b90k"
    place, said = origin_place(Origin(model="gpt2-small", hook="blocks.5.hook_resid_post"))
    assert place.backbone is None and "gpt2-small" in said[0]


def test_every_known_name_belongs_to_a_backbone_that_can_be_built() -> None:
    from saev.backbones.from_spec import checked_spec
    from saev.interop.belongs import backbone_identity_of

    names = [one.name for one in known()]
    assert len(names) == len(set(names)) > 100
    for one in known():
        if one.values.get("backbone") is not None:
            identity = backbone_identity_of(one.values["backbone"], one.values.get("changes"))
            checked_spec(identity["spec"], one.name)


def test_the_table_of_the_docs_is_generated() -> None:
    from benchmarks.public_saes import public_table

    page = Path(__file__).parents[2] / "docs" / "tables" / "public_saes.md"
    assert page.read_text() == public_table(), "python -m benchmarks.public_saes > docs/tables/…"


def test_a_name_with_a_slip_shows_the_nearest() -> None:
    refused("nearest are prisma:clip_b32_layer9", "prisma:clip_b32_layr9")
    refused("nearest are .*osunlp", "osunpl:clip_b16")
    refused("nearest are", "prisma:")
    refused("is no place on the hub", "hub:one-word")
    refused("does not exist", "./nowhere")
    refused("leaves the repository", "hub:some/saes#../../etc")


@pytest.mark.parametrize(
    "source",
    [
        "hub:some/saes#block5",
        "hub:some/saes@main#block5",
        "hub:some/saes#block5/sae_weights.safetensors",
    ],
)
def test_a_folder_or_file_of_a_repository(hub: Hub, source: str) -> None:
    hub.add("some/saes", "block5", SAELENS)
    hub.add("some/saes", "block6", DATA / "saelens_gated" / "saved")
    assert open_sae(source).cfg.k == 3
    assert not any("block6/" in path for path in hub.fetched)


def test_the_root_of_a_repository_is_one_dictionary_and_not_all_below(
    hub: Hub, tmp_path: Path
) -> None:
    hub.add("some/many", "", SAELENS)
    hub.add("some/many", "block6", DATA / "saelens_gated" / "saved")
    hub.add("some/many", "block6/deeper", DATA / "saelens_gated" / "saved")
    for name in ("optimizer_0.pt", "state.pt", "block6/rank_0_state.pt"):
        (hub.root / "some/many" / name).write_bytes(b"of training")
    assert open_sae("some/many").cfg.activation == "topk"
    assert sorted(hub.fetched) == ["cfg.json", "sae_weights.safetensors"]
    assert open_sae("hub:some/many#block6").cfg.activation == "gated"
    assert sorted(hub.fetched)[:2] == ["block6/cfg.json", "block6/sae_weights.safetensors"]
    assert len(hub.fetched) == 4


def test_a_name_is_looked_up_and_says_where_it_belongs(hub: Hub) -> None:
    one = next(known())
    hub.add(one.values["hub"], "", DATA / UPSTREAM / "saved")
    sae = open_sae(one.name)
    assert sae.cfg.layer == one.values["layer"] == 10
    assert sae.cfg.backbone is not None and sae.cfg.backbone["name"] == "ViT-B-16"
    assert sae.cfg.tokens == {"which": "patch"}


UPSTREAM = "upstream_no_schema"


def test_a_repository_at_its_root_and_one_that_is_not_there(hub: Hub) -> None:
    hub.add("some/root", "", SAELENS)
    assert open_sae("some/root").cfg.k == 3
    refused("neither a local folder nor a repository", "some/none")
    refused("holds no block9", "hub:some/root#block9")


def test_objects_of_no_known_library_are_refused() -> None:
    refused("comes from torch", nn.Linear(2, 2))
    refused("sae is a int", 5)


def test_an_object_is_read_like_its_file() -> None:
    """A stand-in with the class and the tensors of dictionary_learning's; real ones: make test-interop."""
    case = DATA / "dictlearn_topk" / "saved"
    weights = torch.load(case / "ae.pt", weights_only=True)
    kind = type("AutoEncoderTopK", (nn.Module,), {"__module__": "dictionary_learning.trainers"})
    held = kind()
    held.state_dict = lambda: weights  # type: ignore[method-assign]
    found = open_sae(held, backbone="clip_b16", layer=9, tokens="patch")
    assert torch.equal(found.W_enc, open_sae(case).W_enc) and found.cfg.layer == 9
    assert found.cfg.recipe["imported"]["source"] == "the AutoEncoderTopK"


def test_a_dictionary_of_ours_keeps_what_is_not_set(tmp_path: Path) -> None:
    sae = open_sae(make_sae(tmp_path / "sae", 0))
    before = sae.cfg
    again = open_sae(sae, tokens="all")
    assert again.cfg == replace(before, tokens={"which": "all"}) and sae.cfg is before
    assert again.W_dec is sae.W_dec and open_sae(sae) is sae
    assert open_sae(sae.double()).W_dec.dtype == torch.float64


def test_double_precision_and_no_path_of_this_machine(tmp_path: Path) -> None:
    weights = load_file(SAELENS / "sae_weights.safetensors")
    (tmp_path / "a" / "b").mkdir(parents=True)
    folder = tmp_path / "a" / "b"
    save_file({n: t.double() for n, t in weights.items()}, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text((SAELENS / "cfg.json").read_text())
    sae = open_sae(folder)
    assert sae.W_enc.dtype == torch.float64 and sae.encode(torch.ones(1, 8)).dtype == torch.float64
    assert sae.cfg.recipe["imported"]["source"] == "a/b"


def test_what_we_write_for_others_says_again_where_it_belongs(tmp_path: Path) -> None:
    from saev.interop import convert_sae

    sae = open_sae(make_sae(tmp_path / "sae", 0))
    for to in ("saelens", "dictionary_learning"):
        convert_sae(sae, tmp_path / to, to=to)
        back = open_sae(tmp_path / to)
        kept = ("backbone", "layer", "tokens", "images", "max_norm")
        assert all(getattr(back.cfg, name) == getattr(sae.cfg, name) for name in kept)


def test_what_a_stranger_says_of_us_is_checked(tmp_path: Path) -> None:
    from saev.interop import convert_sae

    convert_sae(open_sae(make_sae(tmp_path / "sae", 0)), tmp_path / "out", to="saelens")
    path = tmp_path / "out" / "cfg.json"
    content = json.loads(path.read_text())
    content["metadata"]["saev"]["layer"] = "; rm -rf"
    path.write_text(json.dumps(content))
    refused("layer is", tmp_path / "out")
