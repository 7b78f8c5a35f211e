"""Histogram of firing frequencies on held-out tokens, at every validation."""

from pathlib import Path

import lightning as L

from saev.training.sae_module import SAETraining


class FiringFigure(L.Callback):
    """Writes ``figures/firing/step-N.png`` in the run folder and logs it to the run.

    Every validation has computed the frequencies already; this draws them.
    """

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        from saev.pages.figures import firing_histogram

        assert isinstance(pl_module, SAETraining)
        firing = pl_module.val_metrics.firing
        n_tokens = int(firing.n)
        if trainer.sanity_checking or not trainer.is_global_zero or n_tokens == 0:
            return
        folder = Path(trainer.default_root_dir) / "figures" / "firing"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"step-{trainer.global_step:07d}.png"
        frequencies = firing.frequencies().float().cpu().numpy()
        firing_histogram(frequencies, n_tokens).savefig(path, dpi=90)
        for logger in trainer.loggers:
            if log_artifact := getattr(logger, "log_artifact", None):
                log_artifact(path, "figures/firing")
