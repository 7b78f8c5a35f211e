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

from saev.errors import UserError, first_line, printable
from saev.files import full_disk

_PLACES = (
    errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP,
    errno.EIO, errno.ESTALE, errno.ENOENT, errno.EEXIST,
)  # fmt: skip
"""What the system says of a path that another path would not suffer from."""

LONGEST = 1200
"""Characters of a sentence."""

_WORKER_DIED = re.compile(r"DataLoader worker .*(killed by signal|exited unexpectedly)", re.S)
_TOO_MANY_FILES = "Too many open files"
_NO_MEMORY = re.compile(r"can't allocate memory|CUDA out of memory")
_DEVICES = (
    "lightning.fabric.accelerators",
    "lightning.fabric.connector",
    "lightning.fabric.utilities.device_parser",
    "lightning.pytorch.trainer.connectors.accelerator_connector",
)
"""Where Lightning looks at the devices that it is asked for."""
_SAY_WHAT_IS_WRONG = ("saev.", "datamodules.", "callbacks.", "hydra._internal.defaults_list")
"""Where a ``ValueError`` speaks of what the user wrote."""
_WRONG_KEYWORD = re.compile(r"unexpected keyword argument|missing \d+ required")


def sentence(error: BaseException) -> str | None:
    """What to tell the user, in one line; None for an error that only a developer can act on.

    Users can act on ``UserError``, on a ``ValueError`` that this project raises (a constructor's gets
    the config key), on what Lightning says of its settings, on a config that does not compose, on a
    full disk, on a path that cannot be read or written, on worker processes that were killed, and on a
    tracking store that does not answer.
    """
    if isinstance(error, UserError):
        return _one_line(str(error))
    if (outside := _machine(error)) is not None:
        return _one_line(outside)
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
    if type(error) is ValueError and where.startswith(_SAY_WHAT_IS_WRONG):
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
    if isinstance(cause, TypeError) and key:
        return _one_line(f"{key} has a value of the wrong type ({cause}): compare it with conf/")
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


def _machine(error: BaseException) -> str | None:
    """What the machine refused: disk, paths, memory, the store."""
    if (full := full_disk(error)) is not None:
        place = f" at {full.filename}" if full.filename else ""
        return (
            f"the disk is full{place}: free some space (or lift ulimit -f, where it limits files), "
            "or write elsewhere with paths.outputs=…"
        )
    cause, seen = error, []
    while cause is not None and cause not in seen:
        seen.append(cause)
        if _TOO_MANY_FILES in str(cause):
            return (
                "more files are open than one process may have: lower num_workers, or raise the limit with "
                "ulimit -n, and run the same command again"
            )
        if isinstance(cause, OSError) and cause.errno in _PLACES:
            path = f"{cause.filename2 or cause.filename or 'a path'}"
            if len(path) > 300:
                path = f"{path[:300]}…"
            return (
                f"{path} cannot be read or written ({cause.strerror}): give another place, for results "
                "with hydra.run.dir=… or paths.outputs=…"
            )
        if isinstance(cause, RuntimeError) and _WORKER_DIED.search(str(cause)):
            return (
                "a worker process that loads data was killed, most likely for want of memory: lower "
                "num_workers or batch_size, and run the same command again; what is finished is kept, "
                "and a training goes on with ckpt_path=RUN/checkpoints/last.ckpt"
            )
        if isinstance(cause, MemoryError) or _NO_MEMORY.search(str(cause)):
            return (
                "there is not enough memory: lower batch_size, num_workers or data.reservoir_tokens, and "
                "run the same command again"
            )
        if type(cause).__module__.partition(".")[0] in ("mlflow", "sqlalchemy"):
            return (
                f"the tracking store does not answer ({first_line(cause)}): run again when it does, or "
                "with another logger.tracking_uri or logger=none"
            )
        cause = cause.__cause__
    return None


def _one_line(text: str) -> str:
    """Others' words in it may be endless; what to do about them stands at its end."""
    line = printable(" ".join(text.split()))
    if len(line) <= LONGEST:
        return line
    return f"{line[: LONGEST // 2]} … {line[-LONGEST // 2 :]}"
