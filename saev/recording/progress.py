"""Progress bar that counts images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

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


class _ImagesPerSecond(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.0f} images/s")


@contextmanager
def image_bar(
    title: str, n_images: int, n_done: int, enabled: bool
) -> Iterator[Callable[[int], None]]:
    """Shows images done, images/s and the time left; gives the function that counts some more."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _ImagesPerSecond(),
        TimeRemainingColumn(),
        disable=not enabled,
    )
    with bar:
        task = bar.add_task(title, total=n_images, completed=n_done)
        yield lambda n: bar.advance(task, n)
