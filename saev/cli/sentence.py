"""Errors as one sentence."""

import errno
import re

from hydra.errors import (
    CompactHydraException,
    HydraException,
    InstantiationException,
    MissingConfigException,
)
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from saev.errors import UserError

_DISK_FULL = ("No space left on device", "database or disk is full")
_DEVICES = (
    "lightning.fabric.accelerators",
    "lightning.fabric.connector",
    "lightning.fabric.utilities.device_parser",
    "lightning.pytorch.trainer.connectors.accelerator_connector",
)
"""Where Lightning looks at the devices that it is asked for."""
_WRONG_KEYWORD = re.compile(r"unexpected keyword argument|missing \d+ required")


def sentence(error: BaseException) -> str | None:
    """What to tell the user, in one line; None for an error that only a developer can act on.

    Users can act on ``UserError``, on a ``ValueError`` that this project raises (a constructor's gets
    the config key), on what Lightning says of its settings, on a config that does not compose, and on a
    full disk.
    """
    if isinstance(error, UserError):
        return _one_line(str(error))
    full = _disk_full(error)
    if full is not None:
        return full
    if isinstance(error, InstantiationException):
        return _instantiation(error)
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is not set: add {error.full_key}=… to the command"
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return f"there is no {group}={name}: choose one of {', '.join(error.options)}"
    if isinstance(error, (CompactHydraException, OmegaConfBaseException)):
        return _composition(error)
    where = _raised_in(error)
    if type(error) is ValueError and where.startswith(("saev.", "datamodules.", "callbacks.")):
        return _one_line(str(error))
    if isinstance(error, TypeError | ValueError | RuntimeError) and where.startswith(_DEVICES):
        return _one_line(
            f"trainer.accelerator and trainer.devices do not fit this machine: {error}"
        )
    if type(error).__name__ == "MisconfigurationException":
        return _one_line(str(error))
    if type(error) is HydraException:  # a sweep expression that the sweeper does not know
        return _one_line(str(error))
    return None


def _instantiation(error: InstantiationException) -> str | None:
    cause = error.__cause__
    key = _full_key(error)
    if isinstance(cause, (InstantiationException, UserError)):
        return sentence(cause)
    if cause is None or isinstance(cause, ImportError):  # a _target_ that is not there
        return _one_line(str(error))
    ours = isinstance(cause, ValueError) or type(cause).__name__ == "MisconfigurationException"
    if ours or (isinstance(cause, TypeError) and _WRONG_KEYWORD.search(str(cause))):
        return _one_line(f"{key}: {cause}" if key else str(cause))
    return None


def _raised_in(error: BaseException) -> str:
    """The module whose line raised it."""
    here, frame = None, error.__traceback__
    while frame is not None:
        here, frame = frame, frame.tb_next
    return "" if here is None else str(here.tb_frame.f_globals.get("__name__"))


def _full_key(error: InstantiationException) -> str | None:
    found = re.search(r"full_key: (\S+)", str(error))
    return found.group(1) if found else None


def _composition(error: BaseException) -> str:
    cause = error.__cause__
    text = str(error)
    if isinstance(cause, OmegaConfBaseException):
        text = f"{text.splitlines()[0].rstrip('.')}: {str(cause).splitlines()[0]}"
    text = re.sub(r"\n\s+(full_key|object_type)[:=]", r"; \1=", text)
    return f"{_one_line(text)} (--cfg job prints the whole config)"


def _disk_full(error: BaseException | None) -> str | None:
    """Looks through the chain: libraries wrap the system's error in their own."""
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        if number == errno.ENOSPC or any(words in str(error) for words in _DISK_FULL):
            path = error.filename if isinstance(error, OSError) else None
            place = f" at {path}" if path else ""
            return (
                f"the disk is full{place}: free some space, or write elsewhere with paths.outputs=…"
            )
        error = error.__cause__ or error.__context__
    return None


def _one_line(text: str) -> str:
    return " ".join(text.split())
