import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from saev.backbones import load_backbone
from saev.backbones.transform import ImageTransform, to_picture
from saev.errors import UserError

HALVES = (0.5, 0.5, 0.5)


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """Smooth enough that a shift by one pixel shows and interpolation does not overshoot wildly."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("size", [(64, 64), (75, 50), (50, 201), (33, 47)])
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit3_small_patch16_224"])
def test_equals_timms_own_transform(name, size) -> None:
    from timm.data import create_transform, resolve_model_data_config

    small = {"depth": 1, "embed_dim": 32, "num_heads": 1}
    backbone = load_backbone("timm", name, "random", 0, model_kwargs=small)
    config = resolve_model_data_config(backbone.trunk.model)
    expected = create_transform(**config, is_training=False)(picture(*size))
    torch.testing.assert_close(backbone.transform(picture(*size)), expected)


@pytest.mark.parametrize("size", [(64, 64), (75, 50), (50, 201)])
@pytest.mark.parametrize("mode", ["shortest", "squash"])
def test_equals_open_clips_own_transform(mode, size) -> None:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    config = PreprocessCfg(size=32, mean=HALVES, std=(0.2, 0.3, 0.4), resize_mode=mode)
    expected = image_transform_v2(config, is_train=False)(picture(*size))
    transform = ImageTransform((32, 32), HALVES, (0.2, 0.3, 0.4), "bicubic", mode)
    torch.testing.assert_close(transform(picture(*size)), expected)


@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(16, 90),
    width=st.integers(16, 90),
    resize=st.sampled_from(["shortest", "squash"]),
    crop_pct=st.sampled_from([1.0, 0.9]),
)
def test_a_mask_lies_on_its_picture(height, width, resize, crop_pct) -> None:
    """Where a picture is its own mask in black and white, both transforms give the same."""
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[: height // 2, : width // 3] = 1
    image = Image.fromarray(mask * 255).convert("RGB")
    transform = ImageTransform(
        (16, 24), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "nearest", resize, crop_pct
    )
    assert torch.equal(transform(image)[0].long(), transform.mask(mask))


def test_squash_loses_no_class_and_mixes_none() -> None:
    mask = np.full((20, 100), 255, dtype=np.uint8)
    mask[:, :30], mask[:, 70:] = 3, 7
    kept = ImageTransform((16, 16), HALVES, HALVES, "bicubic", "squash").mask(mask)
    cut = ImageTransform((16, 16), HALVES, HALVES, "bicubic", "shortest").mask(mask)
    assert kept.dtype == torch.int64 and set(kept.unique().tolist()) == {3, 7, 255}
    assert set(cut.unique().tolist()) == {255}


def test_asking_for_squash_keeps_the_whole_picture() -> None:
    transform = ImageTransform((16, 16), HALVES, HALVES, "bicubic", crop_pct=0.9)
    assert transform.with_overrides(resize="squash").crop_pct == 1.0
    assert transform.with_overrides(resize="squash", crop_pct=0.8).crop_pct == 0.8
    assert transform.with_overrides(resize=None) == transform


def test_grey_pictures_become_colour() -> None:
    transform = ImageTransform((16, 16), HALVES, HALVES, "bicubic")
    assert transform(picture(20, 20).convert("L")).shape == (3, 16, 16)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ({"resize": "stretch"}, "resize='stretch'"),
        ({"interpolation": "sinc"}, "interpolation='sinc'"),
        ({"mean": [0.5]}, r"mean=\[0.5\] needs three"),
        ({"std": [0.5, 0.5, 0.0]}, "greater than 0"),
        ({"crop_pct": 1.5}, "crop_pct=1.5"),
    ],
)
def test_refuses_options_that_cannot_be(override, words) -> None:
    with pytest.raises(UserError, match=words):
        ImageTransform((16, 16), HALVES, HALVES, "bicubic").with_overrides(**override)


def test_refuses_a_mask_that_is_not_one() -> None:
    with pytest.raises(ValueError, match="uint8"):
        ImageTransform((16, 16), HALVES, HALVES, "bicubic").mask(np.zeros((4, 4)))


def test_the_picture_of_an_input_is_what_went_in() -> None:
    mean, std = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    transform = ImageTransform((6, 8), mean, std, "bilinear", "squash")
    found = to_picture(transform(Image.fromarray(pixels)), mean, std)
    assert found.dtype == np.uint8 and np.array_equal(found, pixels)
    outside = torch.tensor([[-9.0, 9.0]]).expand(3, 1, 2)  # edited inputs may leave the range
    assert to_picture(outside, mean, std)[0].tolist() == [[0, 0, 0], [255, 255, 255]]


@pytest.mark.parametrize("size", [(20_000, 2), (2, 20_000), (2_000_000, 1), (9_000, 130)])
@pytest.mark.parametrize("resize", ["shortest", "squash"])
def test_of_a_thin_picture_only_the_crop_is_computed(
    size: tuple[int, int], resize: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    real = Image.Image.resize

    def resized(self, size, *given, **named):
        made.append(size[0] * size[1])
        return real(self, size, *given, **named)

    monkeypatch.setattr(Image.Image, "resize", resized)
    transform = ImageTransform((32, 32), HALVES, HALVES, "bicubic", resize)
    assert transform(Image.new("RGB", size)).shape == (3, 32, 32)
    assert max(made) <= 64 * 32 * 32


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(900, 30), (30, 900), (901, 31)])
def test_the_crop_alone_is_the_crop_of_the_whole(
    size: tuple[int, int], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    transform = ImageTransform((32, 32), HALVES, HALVES, mode, crop_pct=0.9)
    picture = Image.effect_noise(size, 50).convert("RGB")
    whole = transform(picture)
    monkeypatch.setattr("saev.backbones.transform.MOST_RESIZED", 0)
    assert (transform(picture) - whole).abs().mean() < 2 / 255  # a grey level
