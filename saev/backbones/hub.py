"""Hub downloads that fail within seconds and in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from saev.errors import UserError, first_line

PROBE_SECONDS = 5.0
WEIGHTS_REMEDY = "set backbone.weights=FILE or backbone.weights=random"


@contextmanager
def fetching(what: str, remedy: str = WEIGHTS_REMEDY) -> Iterator[None]:
    """Turns whatever a download inside raises into one UserError about ``what``.

    huggingface_hub retries a dead connection for most of a minute per file, so one request finds
    out first whether the hub answers; if not, only its local cache is asked.
    """
    from huggingface_hub import constants

    answers, before = _hub_answers(), constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not answers
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # hub, network, disk and archive errors share no class
        silent = f"{constants.ENDPOINT} does not answer and no copy is in the local cache"
        reason = first_line(error) if answers else silent
        raise UserError(f"{what} could not be fetched ({reason}): {remedy}.") from error
    finally:
        constants.HF_HUB_OFFLINE = before


def _hub_answers() -> bool:
    from huggingface_hub import constants, get_session

    try:  # any status will do; the session knows about proxies
        get_session().head(constants.ENDPOINT, timeout=PROBE_SECONDS)
    except Exception:  # the HTTP library behind the session differs between versions
        return False
    return True
