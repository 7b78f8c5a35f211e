"""Log interval: when Lightning hands what is logged to the loggers."""

import lightning as L


def is_logged(trainer: L.Trainer, n_steps_done: int) -> bool:
    """Whether values logged in the step that makes it ``n_steps_done`` reach the loggers."""
    every = trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue] set at run time
    return n_steps_done % every == 0
