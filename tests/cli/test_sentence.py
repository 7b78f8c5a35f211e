"""Which errors become one sentence, and which stay a traceback."""

import errno
import sqlite3

import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from saev.cli.sentence import sentence
from saev.errors import UserError


def refuse(k: int, kind: str = "value") -> None:
    raise {"value": ValueError, "user": UserError, "bug": KeyError}[kind](f"k is {k}\nnot good")


def failing(**keywords: object) -> InstantiationException:
    node = {"_target_": f"{__name__}.refuse", **keywords}
    with pytest.raises(InstantiationException) as info:
        instantiate(OmegaConf.create({"model": node}))
    return info.value


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or _module())


def _module() -> object:
    import types

    module = types.ModuleType(__name__)
    module.refuse = refuse  # type: ignore[attr-defined]
    return module


def test_a_constructors_error_gets_its_config_key() -> None:
    assert sentence(failing(k=0)) == "model: k is 0 not good"
    assert sentence(failing(k=0, kind="user")) == "k is 0 not good"
    assert "unexpected keyword argument 'kk'" in str(sentence(failing(k=1, kk=2)))


def test_a_bug_is_no_sentence() -> None:
    assert sentence(failing(k=0, kind="bug")) is None
    assert sentence(ValueError("from deep inside numpy")) is None
    assert sentence(RuntimeError("shape mismatch")) is None


def test_a_full_disk_is_found_behind_other_errors() -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/data/train-000003.tar")
    assert "/data/train-000003.tar" in str(sentence(full))
    try:
        try:
            raise full
        except OSError as error:
            raise RuntimeError("writing failed") from error
    except RuntimeError as error:
        assert str(sentence(error)).startswith("the disk is full at /data/train-000003.tar")
    database = sqlite3.OperationalError("database or disk is full")
    assert str(sentence(database)).startswith("the disk is full:")
    assert sentence(OSError(errno.EINVAL, "Invalid argument")) is None


@pytest.mark.parametrize(
    "number",
    [
        errno.ENOENT,
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.ENOTDIR,
        errno.ENAMETOOLONG,
        errno.EIO,
    ],
)
def test_a_path_that_the_system_refuses_is_named(number: int) -> None:
    refused = OSError(number, "no", "/runs/a")
    assert str(sentence(refused)).startswith("/runs/a cannot be read or written (no)")
    moved = OSError(number, "no", "/tmp/a", None, "/runs/b" * 200)
    assert str(sentence(moved)).startswith("/runs/b/runs/b") and len(str(sentence(moved))) < 500


def test_a_sentence_is_cut_where_others_words_are_endless() -> None:
    text = str(sentence(UserError(f"{'x' * 9000} is no concept; give another")))
    assert len(text) < 1500 and text.endswith("x is no concept; give another")


def test_a_killed_worker_and_a_store_that_is_away_are_no_bugs() -> None:
    from mlflow.exceptions import MlflowException

    for words in ("(pid 7) is killed by signal: Killed. ", "(pid(s) 7, 8) exited unexpectedly"):
        text = str(sentence(RuntimeError(f"DataLoader worker {words}")))
        assert "lower num_workers or batch_size" in text
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")):
        assert str(sentence(error)).startswith("there is not enough memory")
    text = str(sentence(MlflowException("API request failed")))
    assert "store does not answer (API request failed)" in text


def test_an_error_that_is_its_own_cause_comes_to_an_end() -> None:
    error = RuntimeError("shape mismatch")
    error.__cause__ = error
    assert sentence(error) is None


def test_a_missing_value_is_named() -> None:
    cfg = OmegaConf.create({"sae": "???"})
    with pytest.raises(Exception, match="sae") as info:
        _ = cfg.sae
    assert sentence(info.value) == "sae is not set: add sae=… to the command"


def test_a_value_error_of_ours_is_for_the_user_and_anothers_is_a_bug() -> None:
    from saev.sae import SAEConfig

    with pytest.raises(ValueError) as ours:
        SAEConfig(4, 8, "topk", k=0)
    assert sentence(ours.value) == str(ours.value)
    with pytest.raises(ValueError) as others:
        int("abc")
    assert sentence(others.value) is None
