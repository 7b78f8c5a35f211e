"""Small pieces of HTML: escaped words, pictures and files that travel inside the page."""

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image


def words(value: Any) -> str:
    """Anybody's text as HTML shows it, quotes and control characters escaped; None is a dash."""
    from saev.errors import printable

    return "–" if value is None else escape(printable(str(value)), quote=True)


def short_number(value: float | None, digits: int = 2) -> str:
    """So many digits that matter; None and nan are a dash."""
    if value is None or value != value:
        return "–"
    return f"{value:.{digits}g}" if abs(value) < 10**digits else f"{value:,.0f}"


def percent(value: float | None) -> str:
    """A share as a percentage, with a digit more below ten; None and nan are a dash."""
    if value is None or value != value:
        return "–"
    return f"{100 * value:.{0 if abs(value) >= 0.0995 else 1}f} %"


def picture_uri(image: "Image", side: int | None = None) -> str:
    """The picture as a data URI, its longer side at most ``side`` pixels."""
    if side is not None and max(image.size) > side:
        image = image.copy()
        image.thumbnail((side, side))
    file = io.BytesIO()
    small = max(image.size) <= 160
    image.convert("RGB").save(
        file, "png" if small else "jpeg", **({} if small else {"quality": 88})
    )
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def download(name: str, content: bytes | str, kind: str, label: str) -> str:
    """A link that saves ``content`` under ``name``: the file is in the page, none is on the server."""
    data = content.encode() if isinstance(content, str) else content
    uri = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    return f'<a class="save" download="{words(name)}" href="{uri}">{words(label)}</a>'


def bar(share: float, colour: str) -> str:
    """A bar of a share of its cell's width."""
    width = 100 * min(max(share, 0.0), 1.0)
    return f'<span class="bar"><span style="width:{width:.1f}%;background:{colour}"></span></span>'


def notice(text: str, kind: str = "hint") -> str:
    """A sentence to the reader; ``kind`` is hint, error or good."""
    role = ' role="alert"' if kind == "error" else ""
    return f'<p class="{kind}"{role}>{words(text)}</p>'


def html_table(columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML already; a column is its title and what the title means."""
    head = "".join(
        f'<th scope="col" title="{words(why)}">{words(title)}</th>' for title, why in columns
    )
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
