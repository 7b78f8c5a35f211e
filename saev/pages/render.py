"""Rendering of pages that open from disk: jinja2 templates, nothing from the network."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).parent / "templates"


def fill_template(template: Path, content: Mapping[str, Any]) -> str:
    """A template, which lies beside the code that fills it, with values; a missing name is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([template.parent, TEMPLATES]),
        autoescape=template.name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda value: f"{100 * value:.1f}"
    environment.filters["number"] = lambda value, digits=3: (
        "–" if value is None else f"{value:.{digits}f}"
    )
    environment.filters["p"] = lambda value: (
        "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"
    )
    environment.filters["words"] = lambda value: str(value).replace("_", " ")
    return environment.get_template(template.name).render(**content)
