"""Progress bars, and the one switch that hides them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from saev.stopping import stop_if_asked

_SHOWN: ContextVar[bool] = ContextVar("progress_bars", default=True)
Watch = Callable[[str, float], None]
"""Title of a bar, and the share of it that is done."""
_WATCH: ContextVar[Watch | None] = ContextVar("progress_watched", default=None)


@contextmanager
def progress_bars(shown: bool) -> Iterator[None]:
    """Within it bars are ``shown`` or not; bars that something around it hides stay hidden."""
    token = _SHOWN.set(shown and _SHOWN.get())
    try:
        yield
    finally:
        _SHOWN.reset(token)


@contextmanager
def progress_watched(watch: Watch) -> Iterator[None]:
    """Within it every bar, shown or not, tells ``watch`` how far it is."""
    token = _WATCH.set(watch)
    try:
        yield
    finally:
        _WATCH.reset(token)


@contextmanager
def progress_bar(
    title: str, total: int, *, done: int = 0, unit: str = "images", stays: bool = False
) -> Iterator[Callable[[int], None]]:
    """Shows how many of ``total`` are done, the speed and the time left; gives the function that
    counts some more, and stops there where a signal has asked for it. ``stays``: the bar is left on
    the screen at its end."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Speed(unit),
        TimeRemainingColumn(),
        transient=not stays,
        disable=not _SHOWN.get(),
    )
    with bar:
        task = bar.add_task(title, total=total, completed=done)
        watch, counted = _WATCH.get(), done

        def advance(n: int) -> None:
            nonlocal counted
            stop_if_asked()
            bar.advance(task, n)
            counted += n
            if watch is not None:
                watch(title, counted / max(total, 1))

        yield advance


class _Speed(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.0f} {self.unit}/s")
