"""A signal is seen at the next look, whatever has swallowed what its handler raised."""

import gc
import os
import signal

import pytest

from datamodules.progress import progress_bar
from saev import stopping
from saev.tracking.run import status_of


def send(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


class Deaf:
    """Receives a signal in its destructor, where Python loses what a handler raises."""

    def __del__(self) -> None:
        send()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_python_swallows_is_seen_at_the_next_batch() -> None:
    with stopping.listening(), progress_bar("images", 3) as advance:
        advance(1)
        Deaf()
        gc.collect()
        assert stopping.is_asked()
        with pytest.raises(KeyboardInterrupt):
            advance(1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_raises_and_its_echoes_do_not(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stopping.listening():
        with pytest.raises(KeyboardInterrupt):
            send(number)
        for _ in range(3):
            send(signal.SIGINT)
        assert stopping.exit_status() == 128 + number
        assert status_of(RuntimeError("a worker died of the same signal")) == "KILLED"
        monkeypatch.setattr(stopping, "DEAF_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            send()
    assert status_of(RuntimeError()) == "FAILED"
    assert not stopping.is_asked() and stopping.seconds_since_asked() == 0
    stopping.stop_if_asked()


def test_between_batches_the_first_signal_waits_and_a_later_one_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with stopping.listening(), stopping.at_batch_ends():
        send()
        assert stopping.is_asked()
        monkeypatch.setattr(stopping, "DEAF_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            send()


def test_what_the_shell_has_switched_off_stays_off_and_handlers_come_back() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stopping.listening():
            send(signal.SIGINT)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            stopping.listen_again()
            assert signal.getsignal(signal.SIGTERM) is stopping.on_signal
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is not stopping.on_signal
    finally:
        signal.signal(signal.SIGINT, before)
