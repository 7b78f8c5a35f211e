"""Outbox: what a store has not taken yet. A store that goes away costs a run seconds, not its results."""

import json
import logging
import os
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from saev.errors import UserError, first_line
from saev.files import write_atomically

log = logging.getLogger(__name__)

LEFT_OVER = "untracked.jsonl"
"""In the run folder: what the store has never taken, a JSON object a line."""

LOCKED_SECONDS = 5.0
"""So long a write waits for whoever holds a sqlite store; MLflow itself would wait for 40."""

ANSWER_SECONDS = 10
"""For a server's answer to a small request, asked twice; MLflow's own patience is seven times 120."""

FRESH_SECONDS = 5.0
"""After a server's last answer; asking it for a sign of life takes as long as a metric."""

FIRST_PAUSE, LONGEST_PAUSE = 30.0, 600.0
"""Seconds until a store that is away is asked again: twice as long each time."""

REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS",
            "BAD_REQUEST", "PERMISSION_DENIED", "INVALID_STATE", "NOT_FOUND")  # fmt: skip
"""MLflow's codes for what no waiting helps."""


class Entry(NamedTuple):
    """One thing to hand over."""

    kind: str
    """"metrics", "tags", "artifact" or "status"."""
    content: dict[str, Any]
    """Plain values."""


class Outbox:
    """Hands entries over in order; keeps them, and says so once, while the store does not answer.

    Args:
        store: its address, for messages.
        deliver: hands one entry over; raises whatever it likes.
        answers: raises where the store is not there or is locked; asked before each delivery, but not
            within ``fresh_seconds`` of the last one, artifacts apart.
        fresh_seconds: how long a store that has taken something is believed to be there.
    """

    def __init__(
        self,
        store: str,
        deliver: Callable[[Entry], None],
        answers: Callable[[], None],
        fresh_seconds: float = 0.0,
    ) -> None:
        self.store, self._deliver, self._answers = store, deliver, answers
        self._fresh_seconds, self._taken_at = fresh_seconds, -float("inf")
        self._waiting: deque[Entry] = deque()
        self._pause, self._ask_again = FIRST_PAUSE, 0.0
        self._has_said = False

    def __len__(self) -> int:
        """Entries that wait."""
        return len(self._waiting)

    def send(self, kind: str, **content: Any) -> None:
        """Hands an entry over, after those that wait; never raises."""
        self._waiting.append(Entry(kind, content))
        if time.monotonic() >= self._ask_again:
            self.flush()

    def flush(self) -> bool:
        """Tries all entries that wait; whether none is left."""
        n_before = len(self._waiting)
        while self._waiting:
            try:
                is_fresh = time.monotonic() < self._taken_at + self._fresh_seconds
                if not is_fresh or self._waiting[0].kind == "artifact":
                    self._answers()
                self._deliver(self._waiting[0])
                self._taken_at = time.monotonic()
            except (
                Exception
            ) as error:  # MLflow's, its database's and its network's have no common base
                if not is_refusal(error):
                    self._is_away(error)
                    return False
                log.warning("%s refused %s (%s)", self.store, self._waiting[0], first_line(error))
            self._waiting.popleft()
        if self._has_said and n_before > 1:
            log.info("%s answers again and has all that was kept for it", self.store)
        self._pause, self._ask_again, self._has_said = FIRST_PAUSE, 0.0, False
        return True

    def _is_away(self, error: Exception) -> None:
        if not self._has_said:
            log.warning(
                "the tracking store %s does not answer (%s): the run goes on, and hands over what it keeps "
                "when the store is back or at the end",
                self.store, first_line(error),
            )  # fmt: skip
        self._has_said, self._taken_at = True, -float("inf")
        self._ask_again = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def close(self, folder: str | Path | None) -> None:
        """Tries once more; what the store does not take goes to ``untracked.jsonl`` in ``folder``."""
        if self.flush():
            return
        text = "".join(json.dumps({"kind": k, **content}) + "\n" for k, content in self._waiting)
        place = "lost"
        if folder is not None and Path(folder).is_dir():
            write_atomically(Path(folder) / LEFT_OVER, text)
            place = f"in {Path(folder) / LEFT_OVER}"
        log.warning(
            "the tracking store %s never came back: %s entries are %s; the results are complete",
            self.store, len(self._waiting), place,
        )  # fmt: skip


def is_refusal(error: Exception) -> bool:
    """Whether the store is there and does not want it, so that no waiting helps."""
    return isinstance(error, FileNotFoundError) or getattr(error, "error_code", None) in REFUSALS


def answers(tracking_uri: str) -> None:
    """Asks a store for a sign of life, within seconds.

    Raises:
        ConnectionError: a server does not answer, or a sqlite file is gone.
        sqlite3.Error: a sqlite file has been locked for ``LOCKED_SECONDS``.
    """
    from saev.tracking.mlflow_store import check_server, is_server, sqlite_path

    if is_server(tracking_uri):
        try:
            check_server(tracking_uri)
        except UserError as error:
            raise ConnectionError("no answer within seconds") from error
        return
    path = sqlite_path(tracking_uri)
    if path is None:
        return
    if not path.is_file():
        raise ConnectionError(f"{path} is gone")
    uri = f"{path.as_uri()}?mode=rw"
    with closing(sqlite3.connect(uri, uri=True, timeout=LOCKED_SECONDS)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.rollback()


@contextmanager
def short_of_patience() -> Iterator[None]:
    """Within it MLflow gives a server two times ``ANSWER_SECONDS``; what the user has set stays."""
    limits = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(ANSWER_SECONDS),
    }
    ours = {name: value for name, value in limits.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)
