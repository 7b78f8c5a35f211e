"""What a notebook hears of Lightning while a dictionary is fitted."""

import logging
import warnings

import lightning as L
import pytest

from saev.training.fit import lightning_quiet

TREESPEC = "`isinstance(treespec, LeafSpec)` is deprecated, use something else"


def a_trainer() -> L.Trainer:
    return L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )


def test_lightning_tells_of_devices_outside_a_fit_alone(caplog: pytest.LogCaptureFixture) -> None:
    lightning = logging.getLogger("lightning.pytorch")
    lightning.addHandler(caplog.handler)
    level = lightning.level
    try:
        lightning.setLevel(logging.INFO)
        with lightning_quiet():
            a_trainer()
            lightning.warning("heard")
        assert {record.getMessage() for record in caplog.records} == {"heard"}
        a_trainer()
        assert any("GPU available" in record.getMessage() for record in caplog.records)
    finally:
        lightning.removeHandler(caplog.handler)
        lightning.setLevel(level)


def test_levels_come_back_after_an_error() -> None:
    levels = [logging.getLogger(f"lightning.{part}").level for part in ("pytorch", "fabric")]
    with pytest.raises(KeyboardInterrupt), lightning_quiet():
        raise KeyboardInterrupt
    assert levels == [
        logging.getLogger(f"lightning.{part}").level for part in ("pytorch", "fabric")
    ]


def test_one_warning_is_kept_from_the_user() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with lightning_quiet():
            warnings.warn(TREESPEC, FutureWarning, stacklevel=1)
            with pytest.raises(FutureWarning, match="another"):
                warnings.warn("another is deprecated", FutureWarning, stacklevel=1)
        with pytest.raises(FutureWarning, match="LeafSpec"):
            warnings.warn(TREESPEC, FutureWarning, stacklevel=1)
