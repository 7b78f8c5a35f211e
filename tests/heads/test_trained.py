"""Trained heads: what they read, what they compute, how they are kept, what they refuse."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from saev.backbones import Backbone, load_backbone
from saev.errors import UserError
from saev.heads import FEATURES, Reading, TrainedHead, backbone_identity, load_head
from saev.heads.class_rows import ClassRows


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("timm", "micro", "embedded")


@pytest.fixture(scope="module")
def output(backbone: Backbone):
    images = torch.randn(3, 3, *backbone.image_size, generator=torch.Generator().manual_seed(0))
    return backbone(images)


def make(backbone: Backbone, kind: str, features: str, names=("a", "b", "c", "d")) -> TrainedHead:
    generator = torch.Generator().manual_seed(1)
    return TrainedHead(
        kind,
        Reading.of(features, backbone),
        list(names),
        backbone_identity(backbone),
        torch.randn(len(names), backbone.width, generator=generator),
        torch.randn(len(names), generator=generator),
        20.0 if kind == "class_rows" else None,
        recipe={"why": "test"},
    )


def test_reads_what_it_says(backbone: Backbone, output) -> None:
    patches = output.tokens[:, backbone.token_indices("patch")]
    expected = {
        "class": output.tokens[:, 0],
        "pooled": patches.mean(1),
        "embedding": output.pooled,
        "patches": patches,
    }
    assert set(expected) == set(FEATURES)
    for features, rows in expected.items():
        read = Reading.of(features, backbone)(output)
        torch.testing.assert_close(read, rows if features == "patches" else rows[:, None])


def test_logits_are_rows_times_features(backbone: Backbone, output) -> None:
    probe = make(backbone, "classification", "class")
    expected = output.tokens[:, 0] @ probe.weight.T + probe.bias
    torch.testing.assert_close(probe(output), expected)
    rows = make(backbone, "class_rows", "embedding")
    cosine = torch.cosine_similarity(output.pooled[:, None], rows.weight[None], dim=-1)
    torch.testing.assert_close(rows(output), 20.0 * cosine + rows.bias)


def test_segmentation_puts_each_patch_in_its_place(backbone: Backbone, output) -> None:
    head = make(backbone, "segmentation", "patches")
    logits = head(output)
    assert logits.shape == (3, 4, *backbone.grid)
    row, column = 2, 5
    token = output.tokens[1, backbone.n_prefix + row * backbone.grid[1] + column]
    torch.testing.assert_close(logits[1, :, row, column], head.weight @ token + head.bias)
    assert head.upsample(logits, (96, 80)).shape == (3, 4, 96, 80)
    constant = head.upsample(torch.full((1, 4, 12, 12), 3.0), (96, 96))
    torch.testing.assert_close(constant, torch.full((1, 4, 96, 96), 3.0))


@pytest.mark.parametrize(
    ("kind", "features"),
    [("classification", "class"), ("segmentation", "patches"), ("class_rows", "embedding")],
)
def test_comes_back_bit_for_bit(
    kind: str, features: str, backbone: Backbone, output, tmp_path: Path
) -> None:
    head = make(backbone, kind, features)
    assert head.save(tmp_path / "head") == tmp_path / "head"
    again = load_head(tmp_path / "head")
    assert torch.equal(again(output), head(output))
    assert (again.kind, again.features, again.class_names) == (kind, features, head.class_names)
    assert again.backbone == head.backbone and again.recipe == {"why": "test"}
    again.check_backbone(backbone)


def test_edits_reach_it_and_identity_changes_nothing(backbone: Backbone) -> None:
    images = torch.randn(2, 3, *backbone.image_size, generator=torch.Generator().manual_seed(2))
    acts = backbone.tap(images)[backbone.layer]
    for kind, features in (("segmentation", "patches"), ("classification", "pooled")):
        head = make(backbone, kind, features)
        clean = head(backbone(images))
        assert torch.equal(head(backbone.resume(acts.clone(), backbone.layer)), clean)
        assert not torch.allclose(head(backbone.resume(acts * 0, backbone.layer)), clean)


def test_refuses_another_backbone(backbone: Backbone) -> None:
    head = make(backbone, "segmentation", "patches")
    other = load_backbone("timm", "micro", "random", seed=3)
    with pytest.raises(UserError, match=r"head belongs to .* use that backbone"):
        head.check_backbone(other)
    larger = load_backbone("timm", "micro", "random", image_size=128)
    head.backbone["weights"] = larger.weights
    with pytest.raises(UserError, match=r"set backbone\.image_size"):
        head.check_backbone(larger)


def test_maps_the_classes_of_a_source(backbone: Backbone) -> None:
    head = make(backbone, "classification", "class", ("cat", "dog", "ant", "bee"))
    assert head.columns_for(["dog", "fox", "Bee"], "pets").tolist() == [1, -1, 3]
    with pytest.raises(UserError, match="none of the classes"):
        head.columns_for(["car"], "cars")
    with pytest.raises(UserError, match="has no class names"):
        head.columns_for(None, "photos")


def test_refuses_damaged_folders(backbone: Backbone, tmp_path: Path) -> None:
    folder = make(backbone, "classification", "class").save(tmp_path / "run" / "head")
    with pytest.raises(UserError, match=r"give .*head\."):
        load_head(tmp_path / "run")
    with pytest.raises(UserError, match="holds no config"):
        load_head(tmp_path / "nowhere")
    tensors = load_file(folder / "weights.safetensors")
    halves = {name: tensor[:2] for name, tensor in tensors.items()}
    save_file(halves, folder / "weights.safetensors")
    with pytest.raises(UserError, match="2 rows for 4 class names"):
        load_head(folder)
    (folder / "weights.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="is damaged"):
        load_head(folder)
    (folder / "config.json").write_text(json.dumps({"d_sae": 5}))
    with pytest.raises(UserError, match="not the config of a head"):
        load_head(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"class_names": [0, 1, 2, 3]}, r"class_names\[0\] is 0"),
        ({"class_names": []}, "class_names is"),
        ({"backbone": []}, "backbone is"),
        ({"kind": 5}, "kind is 5"),
        ({"logit_scale": float("nan")}, "logit_scale is nan"),
        ({"recipe": "x"}, "recipe is"),
        ({"reading": {"features": "class"}}, "reading.n_tokens is missing"),
        ({"reading": None}, "reading is None"),
    ],
)
def test_every_field_has_its_type_and_range(
    backbone: Backbone, tmp_path: Path, change: dict, words: str
) -> None:
    folder = make(backbone, "classification", "class").save(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=words):
        load_head(folder)


@pytest.mark.parametrize(
    ("positions", "weight", "words"),
    [
        ([10**5], None, "beyond the"),
        (None, float("nan"), "weight that are not finite"),
        (None, torch.zeros(4), "not 2 axes of floats"),
        (None, torch.zeros(4, 8, dtype=torch.int32), "type I32"),
    ],
)
def test_refuses_numbers_that_make_no_head(
    backbone: Backbone, tmp_path: Path, positions, weight, words: str
) -> None:
    folder = make(backbone, "classification", "class").save(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    if positions is not None:
        config["reading"]["positions"] = positions
        (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "weights.safetensors")
    if isinstance(weight, float):
        tensors["weight"][0, 0] = weight
    elif weight is not None:
        tensors["weight"] = weight
    save_file(tensors, folder / "weights.safetensors")
    with pytest.raises(UserError, match=words):
        load_head(folder)


def test_refuses_parts_that_do_not_fit(backbone: Backbone) -> None:
    with pytest.raises(ValueError, match="cannot read features"):
        make(backbone, "segmentation", "class")
    with pytest.raises(ValueError, match="not one of"):
        make(backbone, "regression", "class")
    with pytest.raises(UserError, match="not one of"):
        Reading.of("tokens", backbone)
    with pytest.raises(ValueError, match="upsample is for segmentation"):
        make(backbone, "classification", "class").upsample(torch.zeros(1, 4, 2, 2), (4, 4))


def test_rows_of_the_classifier_and_of_a_file(backbone: Backbone, output, tmp_path: Path) -> None:
    rows = torch.randn(3, backbone.width)
    save_file({"rows": rows, "bias": torch.zeros(3)}, tmp_path / "rows.safetensors")
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\n")
    recipe = ClassRows(
        str(tmp_path / "rows.safetensors"), str(tmp_path / "names.txt"), logit_scale=10.0
    )
    head = recipe.build(backbone, None)
    assert head.class_names == ["ant", "bee", "cat"] and head.kind == "class_rows"
    cosine = torch.cosine_similarity(output.pooled[:, None], rows[None], dim=-1)
    torch.testing.assert_close(head(output), 10.0 * cosine)
    own = ClassRows("classifier").build(backbone, None)
    assert own.class_names == backbone.class_names


def test_refuses_rows_that_do_not_fit(backbone: Backbone, tmp_path: Path) -> None:
    path = tmp_path / "rows.safetensors"
    names = tmp_path / "names.json"
    names.write_text('[{"name": "ant"}, {"name": "bee"}]')
    save_file({"rows": torch.zeros(2, 7)}, path)
    with pytest.raises(UserError, match="7 wide"):
        ClassRows(str(path), str(names)).build(backbone, None)
    save_file({"rows": torch.zeros(3, backbone.width)}, path)
    with pytest.raises(UserError, match="3 rows for 2 class names"):
        ClassRows(str(path), str(names)).build(backbone, None)
    save_file({"a": torch.zeros(2, 2), "b": torch.zeros(2, 2)}, path)
    with pytest.raises(UserError, match="holds 2 matrices"):
        ClassRows(str(path), str(names)).build(backbone, None)
    with pytest.raises(UserError, match="neither a file"):
        ClassRows("nowhere").build(backbone, None)
    with pytest.raises(UserError, match="text tower"):
        ClassRows("text").build(backbone, ["ant"])
    with pytest.raises(ValueError, match="templates are for"):
        ClassRows("classifier", templates=["a {}"])
