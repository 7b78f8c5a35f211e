"""Exponential moving average of the weights, for evaluation and export."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

from saev.sae.initialize import normalize_atoms_
from saev.training.sae_module import SAETraining


class EMAWeights(L.Callback):
    """Validates and exports averaged weights; training goes on with its own.

    After each step average ← decay·average + (1 − decay)·weights from 0, divided by 1 − decay^n
    when used, so that a short run is not held back by its start (Gao et al. 2024, A.1: 0.999 with
    this correction). Atoms of norm 1 are brought back to it.

    Raises:
        ValueError: ``decay`` outside (0, 1).
    """

    def __init__(self, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"EMAWeights: decay must lie strictly between 0 and 1, got {decay}.")
        self.decay = decay
        self.n_steps = 0
        self._at_step = -1
        self.sums: dict[str, Tensor] = {}
        self._own: dict[str, Tensor] = {}

    def average(self, module: SAETraining) -> dict[str, Tensor]:
        """The averaged parameters of ``module.sae``, by name."""
        correction = 1 - self.decay**self.n_steps
        found = {name: total / correction for name, total in self.sums.items()}
        if module.decoder.unit:
            normalize_atoms_(found["W_dec"])
        return found

    @torch.no_grad()
    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        module = _sae_training(pl_module)
        if trainer.global_step == self._at_step:
            return  # gradients are still being accumulated
        self._at_step = trainer.global_step
        self.n_steps += 1
        for name, weights in module.sae.named_parameters():
            total = self.sums.setdefault(name, torch.zeros_like(weights))
            total.lerp_(weights, 1 - self.decay)

    @torch.no_grad()
    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.n_steps == 0:
            return
        module = _sae_training(pl_module)
        self._own = {name: p.detach().clone() for name, p in module.sae.named_parameters()}
        _fill(module, self.average(module))

    @torch.no_grad()
    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Callbacks that write checkpoints come last: they see training's own weights again.
        if self._own:
            _fill(_sae_training(pl_module), self._own)
            self._own = {}

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Not on_train_end: a run that is resumed where it ended has no training to end.
        module = _sae_training(pl_module)
        # On the CPU, where sums from a checkpoint are: another device divides to other last bits.
        self.sums = {name: total.cpu() for name, total in self.sums.items()}
        if self.n_steps > 0:
            module.averaged = self.average(module)

    def state_dict(self) -> dict[str, Any]:
        return {"n_steps": self.n_steps, "sums": {n: t.cpu() for n, t in self.sums.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.n_steps = state_dict["n_steps"]
        self.sums = dict(state_dict["sums"])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Sums from a checkpoint come back on the CPU.
        self.sums = {name: total.to(pl_module.device) for name, total in self.sums.items()}


def _fill(module: SAETraining, weights: dict[str, Tensor]) -> None:
    for name, parameter in module.sae.named_parameters():
        parameter.copy_(weights[name])


def _sae_training(module: L.LightningModule) -> SAETraining:
    if not isinstance(module, SAETraining):
        raise TypeError(f"EMAWeights works on SAETraining, not {type(module).__name__}.")
    return module
