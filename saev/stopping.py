"""Stopping: Ctrl-C and SIGTERM are remembered, and seen at the next batch whatever swallowed them.

Python raises what a signal handler raises wherever the program stands; in a destructor or in a
callback from C it is printed and lost. So the handler takes a note first, and the loops over batches
look at it.
"""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

SIGNALS = (signal.SIGINT, signal.SIGTERM)

DEAF_SECONDS = 5.0
"""A second signal within this time is taken for the first one's echo: a run that ends in peace can be
resumed."""


@dataclass
class _Request:
    signal: int | None = None
    """The first signal that came; None: nobody has asked."""
    time: float = 0.0
    """When it came, on the monotonic clock."""
    waits: int = 0
    """Blocks of ``at_batch_ends`` that the program stands in."""
    advice: str | None = None
    heard: tuple[int, ...] = ()
    """Signals that ``listening`` listens to."""


_request = _Request()


def exit_status() -> int:
    """The shell's for a command that a signal ended: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + (_request.signal or signal.SIGINT)


def is_asked() -> bool:
    """Whether a signal to stop has come."""
    return _request.signal is not None


def seconds_since_asked() -> float:
    """0 where nobody has asked."""
    return time.monotonic() - _request.time if is_asked() else 0.0


def stop_if_asked() -> None:
    """Raises KeyboardInterrupt once a signal to stop has come; for every loop over batches."""
    if is_asked():
        raise KeyboardInterrupt


def advise(how_to_go_on: str) -> None:
    """What the command says beside that it was stopped."""
    _request.advice = how_to_go_on


def advice() -> str | None:
    """How to go on, where whoever stopped knows it."""
    return _request.advice


def on_signal(signum: int, frame: object = None) -> None:
    """The handler: takes a note, and raises KeyboardInterrupt outside of ``at_batch_ends``.

    Signals within ``DEAF_SECONDS`` of the last one that was heard are ignored; a later one raises
    everywhere.
    """
    now = time.monotonic()
    is_first = not is_asked()
    if not is_first and now - _request.time < DEAF_SECONDS:
        return
    _request.time = now
    if is_first:
        _request.signal = signum
        if _request.waits:
            return
    raise KeyboardInterrupt


@contextmanager
def listening() -> Iterator[None]:
    """Within it both signals mean: stop. A signal that the shell had switched off stays off."""
    global _request
    before = {number: signal.getsignal(number) for number in SIGNALS}
    heard = tuple(number for number, handler in before.items() if handler is not signal.SIG_IGN)
    _request = _Request(heard=heard)
    listen_again()
    try:
        yield
    finally:
        for number in heard:
            signal.signal(number, before[number])
        _request = _Request()


def listen_again() -> None:
    """Takes both signals back from a library that has put a handler of its own before ours."""
    for number in _request.heard:
        signal.signal(number, on_signal)


@contextmanager
def at_batch_ends() -> Iterator[None]:
    """Within it the first signal interrupts nothing: a loop that looks at it stops in peace."""
    _request.waits += 1
    try:
        yield
    finally:
        _request.waits -= 1
