"""Pages are whole, safe against odd names, and small."""

import base64
import io
import json
import math
from pathlib import Path

import numpy as np
from PIL import Image

from saev.atlas.pages import overview
from saev.pages.site import (
    LARGEST_ALPHA,
    Site,
    heat_uri,
    histogram_svg,
    plain,
    save_thumbnail,
    signed_uri,
)


def test_heat_map_is_clear_at_zero_and_brightest_at_the_scales_end() -> None:
    codes = np.zeros((14, 14), np.float32)
    codes[2, 3], codes[5, 5] = 4.0, 1.0
    uri = heat_uri(codes, 4.0)
    assert uri is not None
    picture = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGBA")
    rgba = np.asarray(picture)
    assert rgba.shape == (14, 14, 4)
    assert rgba[0, 0, 3] == 0
    assert rgba[2, 3, 3] > rgba[5, 5, 3] > 0
    assert rgba[2, 3, :3].sum() > rgba[5, 5, :3].sum()
    assert rgba[2, 3, 3] == LARGEST_ALPHA, "the whole scale is used, not its dark end"
    assert rgba[2, 3, 0] > 240 and rgba[2, 3, 1] > 240, "inferno ends in yellow"
    assert rgba[2, 3, 3] - int(rgba[5, 5, 3]) > 60
    assert len(uri) < 700, "a page holds forty of them"


def test_scale_is_fixed_and_not_the_tiles_own() -> None:
    codes = np.full((2, 2), 1.0, np.float32)
    assert heat_uri(codes, 2.0) != heat_uri(codes, 1.0)
    assert heat_uri(codes, 2.0) == heat_uri(2 * codes, 4.0)
    assert heat_uri(0 * codes, 2.0) is None


def test_weakest_code_stays_visible() -> None:
    codes = np.array([[1e-3, 0.0]], np.float32)
    uri = heat_uri(codes, 100.0)
    assert uri is not None
    picture = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGBA")
    assert np.asarray(picture)[0, :, 3].tolist()[1] == 0
    assert np.asarray(picture)[0, 0, 3] > 0


def test_a_signed_map_is_red_above_zero_and_blue_below() -> None:
    values = np.zeros((20, 20), np.float32)
    values[3, 4:14], values[7, 4:14] = 2.0, -2.0
    uri = signed_uri(values)
    assert uri is not None and uri == signed_uri(10 * values)
    picture = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGBA")
    rgba = np.asarray(picture).astype(int)
    assert rgba[0, 0, 3] == 0 and rgba[3, 5, 3] == rgba[7, 5, 3] > 200
    assert rgba[3, 5, 0] > rgba[3, 5, 2] + 50 and rgba[7, 5, 2] > rgba[7, 5, 0] + 50
    assert signed_uri(0 * values) is None
    lone = np.zeros((20, 20), np.float32)
    lone[0, 0] = 1.0  # rarer than the percentile that ends the scale
    assert signed_uri(lone) is not None


def test_names_cannot_break_out_of_a_page(tmp_path: Path) -> None:
    site = Site(tmp_path, "a <b> subject", Path(overview.__file__).parent)
    concepts = {"concept": "<script>alert(1)</script>", "note": "x & y", "latents": []}
    site.page("atlas_concept.html.j2", "concept/0.html", c=concepts)
    html = (tmp_path / "concept/0.html").read_text()
    assert "<script>alert" not in html and "&lt;script&gt;" in html
    assert 'href="../assets/atlas.css"' in html


def test_overview_data_is_a_script_that_closing_tags_do_not_end(tmp_path: Path) -> None:
    site = Site(tmp_path, "s", Path(overview.__file__).parent)
    site.overview_data(["latent", "name"], [[1, "</script>"], [2, float("nan")]], [1])
    text = (tmp_path / "assets/overview.data.js").read_text()
    value = json.loads(text.removeprefix("window.ATLAS=").rstrip(";\n"))
    assert value == {
        "keys": ["latent", "name"],
        "rows": [[1, "</script>"], [2, None]],
        "pages": [1],
    }


def test_assets_come_with_their_licences(tmp_path: Path) -> None:
    Site(tmp_path, "s", Path(overview.__file__).parent)
    names = {path.name for path in (tmp_path / "assets").iterdir()}
    assert {"tabulator.min.js", "uPlot.iife.min.js", "LICENSE.tabulator", "LICENSE.uplot"} <= names


def test_plain_values() -> None:
    value = plain({"a": np.float32(1.234567), "b": [np.int64(3), math.inf], "c": (True, "x", None)})
    assert value == {"a": 1.2346, "b": [3, None], "c": [True, "x", None]}
    json.dumps(value)


def test_histogram_says_its_range() -> None:
    counts = np.zeros(64, int)
    counts[[40, 44]] = [3, 9]
    svg = histogram_svg(counts, 2.0**-10, 4)
    assert svg.count("<rect") == 5
    assert "from 1 to 2.4" in svg


def test_thumbnail_is_small(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (224, 224, 3), dtype=np.uint8)
    save_thumbnail(picture, tmp_path / "t.webp", 112)
    with Image.open(tmp_path / "t.webp") as image:
        assert image.size == (112, 112)
    assert (tmp_path / "t.webp").stat().st_size < 12_000
