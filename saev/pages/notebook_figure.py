"""Figures that a notebook shows by itself, drawn without a display."""

import io
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 110


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of so many inches, with room between its parts; Jupyter shows it as a PNG."""
    return _kind()(figsize=(width, height), layout="constrained")


@cache
def _kind() -> Any:
    from matplotlib.figure import Figure

    class NotebookFigure(Figure):
        def _repr_png_(self) -> bytes:
            file = io.BytesIO()
            self.savefig(file, format="png", dpi=DPI)
            return file.getvalue()

    return NotebookFigure
