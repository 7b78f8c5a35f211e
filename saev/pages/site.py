"""Atlas site: pages that open from disk, from templates, plain values and assets."""

import base64
import io
import json
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

HERE = Path(__file__).parent
VENDORED = (
    "tabulator.min.js", "tabulator_simple.min.css", "uPlot.iife.min.js", "uPlot.min.css",
    "LICENSE.tabulator", "LICENSE.uplot",
)  # fmt: skip
OWN = ("atlas.css", "keys.js")
N_COLOURS = 16
"""Of a heat-map. A palette of 256 would be most of the bytes of a 14 × 14 picture, and a page holds
40 of them."""
LARGEST_ALPHA = 170
"""Of 255: the picture stays visible under the strongest patch."""
SIGNED_LEVELS = 7
"""Of each sign: 15 colours are four bits a pixel."""
SIGNED_ALPHA = 230
"""Of 255: a map of single pixels hides less than one of patches."""


@dataclass(frozen=True)
class Picture:
    """One image on a page, with the code of one latent over it."""

    image_id: str
    caption: str
    alt: str
    thumb: str | None
    """Path from the root of the site; None in pages without pictures."""
    heat: str | None
    """Data URI of the map, one pixel per patch."""


def heat_uri(codes_hw: Float[np.ndarray, "gh gw"], top: float) -> str | None:
    """A PNG of the grid in inferno colours, clear at 0 and bright at ``top``; None where all is 0."""
    from PIL import Image

    if top <= 0 or not (codes_hw > 0).any():
        return None
    levels = np.ceil(np.clip(codes_hw / top, 0, 1) * (N_COLOURS - 1)).astype(np.uint8)
    height, width = levels.shape
    paletted = Image.frombytes("P", (width, height), levels.tobytes())
    colours, alpha = _palette()
    paletted.putpalette(colours)
    file = io.BytesIO()
    paletted.save(file, "png", transparency=alpha, bits=4)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def signed_uri(map_hw: Float[np.ndarray, "h w"]) -> str | None:
    """A PNG of a map with two signs: red above 0, blue below, clear at 0; None where all is 0.

    The scale ends at the 99th percentile of the magnitudes: single pixels do not dim the rest.
    """
    from PIL import Image

    top = float(np.quantile(np.abs(map_hw), 0.99)) or float(np.abs(map_hw).max())
    if top <= 0:
        return None
    levels = (np.clip(map_hw / top, -1, 1) * SIGNED_LEVELS).round().astype(int) + SIGNED_LEVELS
    height, width = levels.shape
    paletted = Image.frombytes("P", (width, height), levels.astype(np.uint8).tobytes())
    colours, alpha = _signed_palette()
    paletted.putpalette(colours)
    file = io.BytesIO()
    paletted.save(file, "png", transparency=alpha, bits=4)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


@cache
def _signed_palette() -> tuple[bytes, bytes]:
    from matplotlib import colormaps

    steps = np.linspace(-1, 1, 2 * SIGNED_LEVELS + 1)
    colours = (colormaps["RdBu_r"](0.5 + 0.5 * steps)[:, :3] * 255).round().astype(np.uint8)
    alpha = np.sqrt(np.abs(steps)) * SIGNED_ALPHA
    return colours.tobytes(), bytes(alpha.astype(np.uint8).tolist())


@cache
def _palette() -> tuple[bytes, bytes]:
    from matplotlib import colormaps

    steps = np.linspace(0, 1, N_COLOURS)
    colours = (colormaps["inferno"](0.25 + 0.75 * steps)[:, :3] * 255).round().astype(np.uint8)
    alpha = np.sqrt(steps) * LARGEST_ALPHA
    return colours.tobytes(), bytes(alpha.astype(np.uint8).tolist())


def save_thumbnail(picture: UInt8[np.ndarray, "h w 3"], path: Path, side: int) -> None:
    """A WebP of the picture, about 3 kB at 112 pixels."""
    from PIL import Image

    Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS).save(path, quality=70)


def histogram_svg(counts_h: Int[np.ndarray, " h"], lowest: float, per_octave: int) -> str:
    """How often codes of each strength occur: log bins, bars on a square-root scale."""
    used = counts_h.nonzero()[0]
    if not len(used):
        return "<p>It never fired.</p>"
    first, last = int(used[0]), int(used[-1]) + 1
    shown = np.sqrt(counts_h[first:last])
    width, height = 360, 90
    step = width / max(len(shown), 1)
    bars = "".join(
        f'<rect x="{i * step:.1f}" y="{height - value / shown.max() * height:.1f}" '
        f'width="{max(step - 1, 0.5):.1f}" height="{value / shown.max() * height:.1f}" fill="#31688e"/>'
        for i, value in enumerate(shown)
    )
    ends = [lowest * 2 ** (edge / per_octave) for edge in (first, last)]
    return (
        f'<svg width="{width}" height="{height + 16}" role="img" aria-label="Histogram of codes from '
        f'{ends[0]:.2g} to {ends[1]:.2g}">{bars}<text x="0" y="{height + 13}">{ends[0]:.2g}</text>'
        f'<text x="{width}" y="{height + 13}" text-anchor="end">{ends[1]:.2g}</text></svg>'
    )


class Site:
    """A folder of pages.

    Args:
        folder: root of the site.
        subject: what it is about, shown on every page.
        templates: folder of the pages' own templates and scripts, beside the shared ones.
    """

    def __init__(self, folder: Path, subject: str, templates: Path) -> None:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        self.folder, self.subject = folder, subject
        self.environment = Environment(
            loader=FileSystemLoader([templates, HERE / "templates"]),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        (folder / "assets").mkdir(parents=True, exist_ok=True)
        for name in VENDORED:
            shutil.copyfile(HERE / "vendor" / name, folder / "assets" / name)
        for path in (*(HERE / "templates" / name for name in OWN), *templates.glob("*.js")):
            shutil.copyfile(path, folder / "assets" / path.name)

    def clear(self, *folders: str) -> None:
        """Removes the pages and JSON files of an earlier run from sub-folders of the site."""
        for name in folders:
            for path in (*self.folder.glob(f"{name}/*.html"), *self.folder.glob(f"{name}/*.json")):
                path.unlink()

    def page(self, template: str, path: str, **values: Any) -> None:
        """Fills ``template`` into the file ``path``, relative to the site."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        root = "../" * (len(Path(path).parts) - 1)
        html = self.environment.get_template(template).render(
            root=root, subject=self.subject, **values
        )
        target.write_text(html, encoding="utf-8")

    def data(self, path: str, value: Any) -> None:
        """JSON beside the pages."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(plain(value)) + "\n", encoding="utf-8")

    def script(self, name: str, value: Any) -> None:
        """Data as ``assets/<name>.data.js``: a page on disk may load scripts, not JSON files."""
        text = json.dumps(value, separators=(",", ":"))
        path = self.folder / "assets" / f"{name}.data.js"
        path.write_text(f"window.ATLAS={text};\n", encoding="utf-8")

    def overview_data(
        self, keys: Sequence[str], rows: Iterable[Sequence[Any]], pages: Sequence[int]
    ) -> None:
        """The rows of the overview's table."""
        rows = [plain(row) for row in rows]
        self.script("overview", {"keys": list(keys), "rows": rows, "pages": list(pages)})


def plain(value: Any) -> Any:
    """What JSON can hold: numbers without nan, at five digits; lists and mappings inside out."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(f"{float(value):.5g}") if math.isfinite(value) else None
    return value
