"""A steered model: what it computes, and that it comes back the same from disk."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from datamodules.images import ScenesImages
from saev.backbones import Backbone, load_backbone
from saev.editing import edits
from saev.editing.tap_edit import TapEdit
from saev.editing.tokens import Tokens, encode
from saev.errors import UserError
from saev.heads import backbone_identity
from saev.sae import SAEConfig, SparseAutoencoder
from saev.steering import Steering

ROOT = Path(__file__).parents[2]
HALVES = (0.5, 0.5, 0.5)


def dictionary(model: Backbone, layer: int = 4, seed: int = 0, **changes) -> SparseAutoencoder:
    cfg = SAEConfig(model.width, 96, "topk", 8, layer=layer, tokens={"which": "patch"},
                    backbone=backbone_identity(model))  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    return SparseAutoencoder(replace(cfg, **changes), generator).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def micro() -> Backbone:
    return load_backbone("micro")


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(3, 3, 96, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def busy(micro, images) -> list[int]:
    """Latents that fire on the images, most first."""
    acts = micro.tap(images)[4]
    z = encode(dictionary(micro), Tokens.of(micro, "patch"), acts).z
    return (z > 0).sum((0, 1)).argsort(descending=True)[:4].tolist()


def picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (120, 100, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_the_logits_are_those_of_the_edited_stream(micro, images, busy) -> None:
    sae, tokens = dictionary(micro), Tokens.of(micro, "patch")
    largest = torch.full((96,), 2.0)
    steered = Steering.of(sae, micro, edits.set(latent=busy[0], scale=-1.0), largest=largest)
    by_hand = TapEdit(sae, [edits.set(busy[0], code=-2.0)], None, tokens)
    expected = micro(images, {4: by_hand}).logits
    assert torch.equal(steered(images).logits, expected)
    assert not torch.equal(expected, micro(images).logits)
    assert torch.equal(steered(images[0]).logits, steered(images[:1]).logits)


def test_edits_that_change_nothing_change_no_bit(micro, images) -> None:
    nothing = [edits.scale(latents=range(96), factor=1.0), edits.ablate(3, where={"fires": 3,
               "threshold": 1e9})]  # fmt: skip
    steered = Steering.of(dictionary(micro), micro, nothing)
    for found, clean in zip(steered(images), micro(images), strict=True):
        assert torch.equal(found, clean)


def test_pictures_are_transformed(micro) -> None:
    steered = Steering.of(dictionary(micro), micro, edits.ablate(latents=list(range(96))))
    pictures = [picture(0), picture(1)]
    pixels = torch.stack([micro.transform(one) for one in pictures])
    assert torch.equal(steered(pictures).logits, steered(pixels).logits)
    assert torch.equal(steered(pictures[0]).logits, steered(pixels[:1]).logits)
    with pytest.raises(ValueError, match=r"images are torch.uint8"):
        steered(torch.zeros(1, 3, 96, 96, dtype=torch.uint8))


def test_several_layers(micro, images, busy) -> None:
    lower, upper = dictionary(micro, layer=2, seed=1), dictionary(micro)
    tokens = Tokens.of(micro, "patch")
    one, two = edits.add(7, code=5.0), edits.set(busy[0], code=-9.0)
    steered = Steering.of(lower, micro, one).also(upper, two)
    by_hand = {2: TapEdit(lower, [one], None, tokens), 4: TapEdit(upper, [two], None, tokens)}
    assert torch.equal(steered(images).logits, micro(images, by_hand).logits)
    with pytest.raises(ValueError, match="at different layers"):
        steered.also(upper, two)


def test_a_mask_of_patches(micro, images) -> None:
    edit = edits.add(7, code=5.0, where="mask")
    steered = Steering.of(dictionary(micro), micro, edit, tokens=["class", "patch"])
    nowhere = torch.zeros(3, 144, dtype=torch.bool)
    assert torch.equal(steered(images, nowhere).logits, micro(images).logits)
    one = nowhere.clone()
    one[1, 5] = True
    changed = (steered(images, one).logits != micro(images).logits).any(-1)
    assert changed.tolist() == [False, True, False]


def test_the_unit_is_the_largest_code_on_the_images(micro, images, busy) -> None:
    sae = dictionary(micro)
    limit = float(micro.tap(images)[4].norm(dim=-1).median())
    sae.cfg = replace(sae.cfg, max_norm=limit)
    steered = Steering.of(sae, micro, edits.set(busy[0], scale=1.0), images=images)
    x = micro.tap(images)[4][:, 1:]
    z = sae.encode(x)[x.norm(dim=-1) <= limit]
    tap = next(steered.each_tap())
    torch.testing.assert_close(tap.largest, z.amax(0))
    assert tap.largest_from == "3 images given"


def test_without_images_it_is_measured_on_held_out_ones_of_the_source(micro, caplog) -> None:
    source = ScenesImages(n_images=12, val_fraction=0.5, seed=0)
    sae = dictionary(micro, images=source.spec())
    held_out = source.split("heldout")
    pixels = torch.stack([micro.transform(source.load(item)) for item in held_out])
    z = sae.encode(micro.tap(pixels)[4][:, 1:])
    latent = int(z.sum((0, 1)).argmax())
    with caplog.at_level("INFO"):
        steered = Steering.of(sae, micro, edits.set(latent, scale=-1.0))
    tap = next(steered.each_tap())
    torch.testing.assert_close(tap.largest, z.amax((0, 1)))
    words = f"{len(held_out)} held-out images of {source.name}"
    assert tap.largest_from == words and words in caplog.text
    assert words in repr(steered) and f"set {latent} scale=-1" in repr(steered)


def test_a_latent_that_never_fires_has_no_unit(micro, images) -> None:
    largest = torch.ones(96)
    largest[5] = 0
    with pytest.raises(UserError, match="latent 5 never fires there"):
        Steering.of(dictionary(micro), micro, edits.set(5, scale=1.0), largest=largest)
    Steering.of(dictionary(micro), micro, edits.set(5, code=1.0))


def test_refused(micro) -> None:
    sae, one = dictionary(micro), edits.set(1, scale=1.0)
    with pytest.raises(UserError, match="does not say which images"):
        Steering.of(sae, micro, one)
    with pytest.raises(UserError, match="reads layer 4; layer=3 is another"):
        Steering.of(sae, micro, one, layer=3)
    with pytest.raises(UserError, match="does not say which layer"):
        Steering.of(dictionary(micro, layer=None), micro, one)
    with pytest.raises(UserError, match="does not say which tokens"):
        Steering.of(dictionary(micro, tokens=None), micro, one)
    with pytest.raises(UserError, match="the SAE was trained on micro with weights"):
        Steering.of(sae, load_backbone("micro", weights="random"), one)
    with pytest.raises(ValueError, match="one code for each of the 96"):
        Steering.of(sae, micro, one, largest=torch.ones(95))
    with pytest.raises(ValueError, match="no latent 96"):
        Steering.of(sae, micro, edits.ablate(96))
    with pytest.raises(ValueError, match="give one or more"):
        Steering(micro, [])


FRESH = """
import sys, torch
from saev.steering import Steering
steered = Steering.load(sys.argv[1])
images = torch.randn(3, 3, 96, 96, generator=torch.Generator().manual_seed(0))
torch.save(steered(images).logits, sys.argv[2])
print(any(name.startswith("lightning") for name in sys.modules))
"""


@pytest.mark.slow
def test_it_comes_back_the_same_in_another_process(micro, images, busy, tmp_path) -> None:
    lower, upper = dictionary(micro, layer=2, seed=1), dictionary(micro, max_norm=60.0)
    largest = torch.rand(96, generator=torch.Generator().manual_seed(1)) + 0.1
    swap = edits.swap(latents=[8, 9], source=torch.rand(145, 2))
    steered = Steering.of(lower, micro, edits.add(7, code=0.3)).also(
        upper,
        [edits.set(busy[0], scale=-1.7, where={"fires": busy[1], "threshold": 0.1}), swap,
         edits.clamp(busy[2], low=0.1, high=0.4, where={"patches": [0, 5, 70]})],
        largest=largest, tokens=["patch", "class"],
    )  # fmt: skip
    folder, answer = steered.save(tmp_path / "steered"), tmp_path / "logits.pt"
    subprocess.run(
        [sys.executable, "-c", FRESH, str(folder), str(answer)], check=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    logits = steered(images).logits
    assert not torch.equal(logits, micro(images).logits)
    assert torch.equal(torch.load(answer, weights_only=True), logits)


def test_in_place_of_the_reconstruction_it_comes_back_too(micro, images, tmp_path) -> None:
    steered = Steering.of(dictionary(micro), micro, edits.ablate(3), mode="replace")
    again = Steering.load(steered.save(tmp_path))
    assert torch.equal(again(images).logits, steered(images).logits)
    assert repr(again) == repr(steered)
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {
        "config.json", "edits.safetensors", "layer4/config.json", "layer4/weights.safetensors",
    }  # fmt: skip


def test_weights_that_have_moved(micro, images, tmp_path) -> None:
    from saev.backbones.micro.micro_vit import MICRO_DIR, WEIGHTS

    folder = Steering.of(dictionary(micro), micro, edits.ablate(3)).save(tmp_path / "steered")
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes((MICRO_DIR / WEIGHTS).read_bytes())
    again = Steering.load(folder, weights=str(moved))
    assert torch.equal(again(images).logits, Steering.load(folder)(images).logits)
    with pytest.raises(UserError, match="the steered model was made from micro with weights"):
        Steering.load(folder, weights="random")


def my_vit() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kwargs = {"embed_dim": 32, "depth": 3, "num_heads": 2, "img_size": 32, "num_classes": 5}
        return timm.create_model("vit_tiny_patch16_224", **kwargs)


def test_a_model_object_is_given_again(tmp_path) -> None:
    model, images = my_vit(), torch.randn(2, 3, 32, 32)
    backbone = load_backbone(model, mean=HALVES, std=HALVES)
    sae = dictionary(backbone, layer=1)
    steered = Steering.of(sae, model, edits.add(3, code=4.0))
    assert steered.backbone.mean == HALVES  # as the dictionary says
    folder = steered.save(tmp_path)
    with pytest.raises(UserError, match="give that object as backbone"):
        Steering.load(folder)
    again = Steering.load(folder, backbone=model)
    assert again.backbone.mean == HALVES
    assert torch.equal(again(images).logits, steered(images).logits)
    with torch.no_grad():
        model.head.bias += 1
    with pytest.raises(UserError, match="give the model object as it was then"):
        Steering.load(folder, backbone=model)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be read as JSON"),
        (lambda folder: (folder / "config.json").write_text("{}"), "not the config of a steered"),
        (lambda folder: rewrite(folder, format_version=9), "format version 9"),
        (lambda folder: rewrite(folder, taps=[{"layer": 4}]), "tokens is missing"),
        (lambda folder: rewrite(folder, taps=[]), "taps is"),
        (lambda folder: rewrite(folder, taps="x"), "taps is 'x'"),
        (
            lambda folder: rewrite(folder, backbone={"spec": {"family": "os"}}),
            "family is 'os'|name is",
        ),
        (lambda folder: rewrite(folder, backbone={}), "do not make a steered model"),
        (lambda folder: (folder / "edits.safetensors").write_bytes(b"x"), "damaged"),
    ],
)
def test_a_damaged_folder_is_refused_in_a_sentence(micro, tmp_path, damage, words) -> None:
    Steering.of(dictionary(micro), micro, edits.ablate(3)).save(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=words) as error:
        Steering.load(tmp_path)
    assert "\n" not in str(error.value)


def rewrite(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
