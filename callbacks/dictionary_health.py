"""Health of a dictionary in training: atom norms, firing shares."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

from saev.metrics.firing import DENSE_ABOVE
from saev.sae.dead import dead_latents
from saev.training.sae_module import ActivationBatch, SAETraining, StepOutput
from saev.training.schedules import is_logged


class DictionaryHealth(L.Callback):
    """Logs at every logging step:

    - ``train/gradient_norm``: L2 norm over all parameters, the part along the atoms removed, before
      clipping;
    - ``train/atom_norm_min`` and ``train/atom_norm_max``: 1 up to rounding;
    - ``train/dead_fraction`` and ``train/alive_fraction``: inactive for ``model.dead_after_tokens``
      tokens or not; they add up to 1;
    - ``train/dense_fraction``: latents that fired on more than 10 % of the last tokens: between one
      and two times ``window_tokens``, or of all of them at the start (this rank's tokens).

    Raises:
        ValueError: ``window_tokens`` below 1.
    """

    def __init__(self, window_tokens: int = 100_000) -> None:
        if window_tokens < 1:
            raise ValueError(
                f"DictionaryHealth: window_tokens must be at least 1, got {window_tokens}."
            )
        self.window_tokens = window_tokens
        self._counts: list[Tensor] = []
        self._n_tokens: list[int] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._counts, self._n_tokens = [], []

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if not is_logged(trainer, trainer.global_step + 1):
            return
        norms = [p.grad.norm() for p in pl_module.parameters() if p.grad is not None]
        pl_module.log("train/gradient_norm", torch.stack(norms).norm())

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: ActivationBatch,
        batch_idx: int,
    ) -> None:
        self._add(outputs["step"], len(batch.acts))
        if is_logged(trainer, trainer.global_step):
            if not isinstance(pl_module, SAETraining):
                raise TypeError(
                    f"DictionaryHealth works on SAETraining, not {type(pl_module).__name__}."
                )
            values = self._shares(pl_module)
            pl_module.log_dict({f"train/{name}": value for name, value in values.items()})

    def _add(self, step: StepOutput, n_tokens: int) -> None:
        if not self._counts or self._n_tokens[-1] >= self.window_tokens:
            # The window before last is dropped: two are kept, the second one filling.
            self._counts = [*self._counts[-1:], torch.zeros_like(step.firing_counts)]
            self._n_tokens = [*self._n_tokens[-1:], 0]
        self._counts[-1] += step.firing_counts
        self._n_tokens[-1] += n_tokens

    @torch.no_grad()
    def _shares(self, module: SAETraining) -> dict[str, Tensor]:
        norms = torch.linalg.vector_norm(module.sae.W_dec, dim=1)
        dead = dead_latents(module.tokens_since_fired, module.hparams["dead_after_tokens"])
        frequencies = torch.stack(self._counts).sum(0) / sum(self._n_tokens)
        return {
            "atom_norm_min": norms.min(),
            "atom_norm_max": norms.max(),
            "dead_fraction": dead.float().mean(),
            "alive_fraction": 1 - dead.float().mean(),
            "dense_fraction": (frequencies > DENSE_ABOVE).float().mean(),
        }
