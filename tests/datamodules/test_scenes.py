import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import distance_transform_edt
from scipy.stats import chi2_contingency, chisquare

from datamodules.scenes import (
    ATTRIBUTES,
    COLOURS,
    PATCH_ATTRIBUTES,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    attribute_table,
    draw_scene,
    patch_labels,
    render,
    sample_scene,
    scene_attributes,
)
from datamodules.scenes.attributes import COMPANION_SCALE
from datamodules.scenes.draw import DARK_TONE, RGB
from datamodules.scenes.labels import majority

numbers = st.integers(0, 2**31)

# Description and mean colour of each quarter of the picture (left to right, top to bottom), taken
# from a drawing that was looked at.
KNOWN = {
    (0, 0): (
        "cross purple checker small left top one sky",
        [
            [156.7, 179.6, 218.5],
            [160.9, 206.7, 243.6],
            [172.5, 212.7, 244.9],
            [179.0, 216.0, 245.7],
        ],
    ),
    (0, 16): (
        "square pink stripes medium middle bottom three night",
        [[34.1, 29.6, 57.4], [27.8, 33.4, 58.3], [61.9, 49.1, 87.5], [56.1, 46.0, 84.5]],
    ),
    (7, 123456): (
        "star blue stripes large middle bottom three night",
        [[69.4, 60.5, 88.4], [34.6, 36.1, 64.5], [40.9, 46.4, 93.0], [38.5, 42.9, 88.2]],
    ),
}


def quarter_means(scene: Scene) -> list[list[float]]:
    half = len(scene.image) // 2
    quarters = scene.image.reshape(2, half, 2, half, 3)
    return quarters.mean((1, 3)).reshape(4, 3).round(1).tolist()


@pytest.mark.parametrize("key", KNOWN)
def test_pictures_stay_what_they_were(key: tuple[int, int]) -> None:
    scene = draw_scene(*key)
    attributes, means = KNOWN[key]
    assert " ".join(scene_attributes(scene).values()) == attributes
    np.testing.assert_allclose(quarter_means(scene), means, atol=0.5)  # of 255: rounding only


@settings(max_examples=20, deadline=None)
@given(seed=numbers, index=numbers)
def test_a_scene_depends_on_seed_and_index_alone(seed: int, index: int) -> None:
    first = draw_scene(seed, index)
    draw_scene(seed, index + 1)
    again = draw_scene(seed, index)
    assert first.description == again.description == sample_scene(seed, index)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.object_mask, again.object_mask)


def test_neighbouring_seeds_and_indices_give_other_scenes() -> None:
    images = [draw_scene(seed, index).image for seed in range(3) for index in range(3)]
    assert all(not np.array_equal(a, b) for a, b in combinations(images, 2))


def test_another_process_draws_the_same() -> None:
    program = (
        "from datamodules.scenes import draw_scene; from zlib import crc32;"
        "print(*(crc32(draw_scene(5, i).image.tobytes()) for i in (2, 0, 1)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    here = {i: crc32(draw_scene(5, i).image.tobytes()) for i in range(3)}
    assert [int(word) for word in out.split()] == [here[2], here[0], here[1]]


@pytest.fixture(scope="module")
def many_values() -> dict[str, np.ndarray]:
    drawn = [sample_scene(11, index).values for index in range(4000)]
    return {name: np.asarray([values[name] for values in drawn]) for name in ATTRIBUTES}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes_are_uniform(name: str, many_values: dict[str, np.ndarray]) -> None:
    counts = np.bincount(many_values[name], minlength=len(ATTRIBUTES[name]))
    assert len(counts) == len(ATTRIBUTES[name])
    assert chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize(("one", "other"), list(combinations(ATTRIBUTES, 2)))
def test_attributes_are_independent(
    one: str, other: str, many_values: dict[str, np.ndarray]
) -> None:
    table = np.zeros((len(ATTRIBUTES[one]), len(ATTRIBUTES[other])))
    np.add.at(table, (many_values[one], many_values[other]), 1)
    assert chi2_contingency(table).pvalue > 1e-4


def test_companions_do_not_take_after_the_main_object() -> None:
    scenes = [sample_scene(12, index) for index in range(3000)]
    for name in ("shape", "colour", "texture"):
        table = np.zeros((len(ATTRIBUTES[name]),) * 2)
        for scene in scenes:
            for companion in scene.objects[1:]:
                table[getattr(scene.objects[0], name), getattr(companion, name)] += 1
        assert chi2_contingency(table).pvalue > 1e-4


@settings(max_examples=40, deadline=None)
@given(index=numbers)
def test_masks_agree_with_the_attributes(index: int) -> None:
    scene = draw_scene(3, index)
    objects = scene.objects
    assert len(objects) == scene.values["count"] + 1
    assert set(np.unique(scene.object_mask)) <= set(range(len(objects) + 1))
    for name in ("shape", "colour", "texture"):
        expected = np.zeros_like(scene.object_mask)
        for number, thing in enumerate(objects, start=1):
            expected[scene.object_mask == number] = 1 + getattr(thing, name)
        assert np.array_equal(getattr(scene, f"{name}_mask"), expected)
    assert np.array_equal(scene.semantic_mask, scene.shape_mask)
    assert scene.class_label == scene.values["shape"] == objects[0].shape


@settings(max_examples=60, deadline=None)
@given(index=numbers)
def test_the_main_object_is_largest_and_in_its_cell(index: int) -> None:
    scene = draw_scene(4, index)
    main = scene.object_mask == 1
    # A crescent covers least: 0.9 of its squared radius.
    assert main.sum() > 0.8 * (scene.objects[0].radius * 96) ** 2
    for thing in scene.objects[1:]:
        assert thing.radius == pytest.approx(COMPANION_SCALE * scene.objects[0].radius)
    for thing in scene.objects:
        assert (thing.column, thing.row) == (int(3 * thing.x), int(3 * thing.y))
    rows, columns = np.nonzero(main)
    middle = (rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2
    assert middle == pytest.approx(
        (scene.objects[0].y * 96, scene.objects[0].x * 96), abs=0.4 * scene.objects[0].radius * 96
    )


@pytest.mark.slow
def test_sizes_agree_with_the_picture() -> None:
    """Of any two objects, the one labelled larger is larger."""
    things = [thing for i in range(300) for thing in sample_scene(0, i).objects]
    radii = [[t.radius for t in things if t.size == size] for size in range(len(SIZES))]
    assert min(len(values) for values in radii) >= 50
    assert max(radii[0]) < min(radii[1]) and max(radii[1]) < min(radii[2])


def test_hardly_any_companion_is_hidden() -> None:
    shares = []
    for index in range(300):
        scene = draw_scene(6, index)
        for number, thing in enumerate(scene.objects[1:], start=2):
            alone = render(
                type(scene.description)(6, index, 0, scene.values["background"], (thing,))
            )
            shares.append((scene.object_mask == number).sum() / (alone.object_mask == 1).sum())
    assert np.mean(np.asarray(shares) > 0.95) > 0.99


def test_every_shape_colour_and_texture_looks_different() -> None:
    """On one background, at one place, only the named attribute changes."""
    base = sample_scene(0, 0)
    main = replace(base.objects[0], size=2, radius=0.22, x=0.5, y=0.5, shape=0, colour=0, texture=0)
    for name, values in (("shape", SHAPES), ("colour", COLOURS), ("texture", TEXTURES)):
        images = [
            render(replace(base, count=0, objects=(replace(main, **{name: value}),))).image
            for value in range(len(values))
        ]
        for one, other in combinations(images, 2):
            differing = np.abs(one.astype(int) - other).max(-1) > 30
            assert differing.sum() > 100


@settings(max_examples=40, deadline=None)
@given(index=numbers)
def test_objects_show_only_tones_of_their_colour(index: int) -> None:
    """Deep inside the main object every pixel is the colour or its dark tone, or between them."""
    drawn = sample_scene(7, index)
    large = replace(drawn.objects[0], radius=0.22, x=0.5, y=0.5)
    scene = render(replace(drawn, objects=(large,)))
    inner = distance_transform_edt(scene.object_mask == 1) > 4.5  # past the outline
    colour = np.asarray(RGB[COLOURS[scene.values["colour"]]], float)
    pixels = scene.image[inner].astype(float)
    brightness = pixels @ colour / (colour @ colour)
    assert np.abs(pixels - brightness[:, None] * colour).max() <= 1
    assert brightness.min() >= DARK_TONE - 0.01
    assert brightness.max() <= 1.01


@pytest.mark.parametrize("size", [48, 97, 224])
def test_a_scene_can_be_drawn_at_any_size(size: int) -> None:
    small, other = draw_scene(8, 1), draw_scene(8, 1, size)
    assert other.image.shape == (size, size, 3)
    assert other.object_mask.shape == (size, size)
    assert other.description == small.description
    for number in range(1, len(small.objects) + 1):
        assert (other.object_mask == number).mean() == pytest.approx(
            (small.object_mask == number).mean(), rel=0.1
        )
    assert other.image.mean((0, 1)) == pytest.approx(small.image.mean((0, 1)), abs=3)


@given(mask=arrays(np.uint8, (6, 9), elements=st.integers(0, 4)))
def test_majority_counts_like_a_loop(mask: np.ndarray) -> None:
    found = majority(mask, 3, 5)
    for patch in range(6):
        row, column = divmod(patch, 3)
        block = mask[3 * row : 3 * row + 3, 3 * column : 3 * column + 3].ravel().tolist()
        assert found[patch] == min(block, key=lambda value: (-block.count(value), value))


def test_patch_labels_name_the_object_that_fills_the_patch() -> None:
    scene = draw_scene(9, 4)
    labels = patch_labels(scene, 8)
    assert tuple(labels) == PATCH_ATTRIBUTES
    main = scene.objects[0]
    covered = (scene.object_mask == 1).reshape(12, 8, 12, 8).mean((1, 3)).ravel()
    for name in PATCH_ATTRIBUTES:
        assert labels[name].shape == (144,)
        assert (labels[name][covered > 0.5] == 1 + getattr(main, name)).all()
    with pytest.raises(ValueError, match="patch_size is 7"):
        patch_labels(scene, 7)


def test_names() -> None:
    assert attribute_table() == {name: list(values) for name, values in ATTRIBUTES.items()}
    attributes = scene_attributes(draw_scene(0, 0))
    assert list(attributes) == list(ATTRIBUTES)
    assert attributes == scene_attributes(sample_scene(0, 0))
    assert set(RGB) == set(COLOURS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((-1, 0), "seed is -1"), ((0, -2), "index is -2"), ((0, 0, 47), "size is 47 pixels")],
)
def test_bad_numbers_are_refused(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_scene(*arguments)
