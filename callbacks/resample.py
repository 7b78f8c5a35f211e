"""Resampling of dead latents, at inputs that the dictionary reconstructs badly."""

from typing import Any

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor

from saev.sae.dead import dead_latents, draw_inputs, resample_rows
from saev.training.distributed import broadcast_from_first, gather_rows, world_size
from saev.training.sae_module import ActivationBatch, SAETraining, StepOutput
from saev.training.schedules import is_logged


class ResampleDeadLatents(L.Callback):
    """Neuron resampling of Bricken et al. 2023 (Towards Monosemanticity), counted in tokens.

    Every ``every_n_tokens`` tokens, at most ``n_times`` times: each latent that has been inactive for
    ``dead_after_tokens`` is pointed at an input drawn with probability proportional to its squared
    loss, and its optimiser state is cleared; see ``saev.sae.dead.resample_rows``. The inputs are
    the training tokens just before the event with the losses they had then, so no extra pass is
    needed and at most ``pool_tokens`` are held, over all ranks. Logs ``train/resampled``, the total so far.

    ``encoder_scale`` is the norm of a new encoder row over the mean of the living ones. null takes
    0.2 for ReLU and Gated (the source: small, so as not to disturb) and 1 where codes compete or
    have a threshold to pass: a short row never would.

    All ranks take the same latents and the rows that rank 0 draws from the pools of all. The draw
    depends on the seed and the number of the event only, so a resumed run draws alike.

    Raises:
        ValueError: a count below 1, or an ``encoder_scale`` that is not positive.
    """

    def __init__(
        self,
        every_n_tokens: int,
        dead_after_tokens: int,
        n_times: int,
        pool_tokens: int = 32_768,
        encoder_scale: float | int | None = None,
    ) -> None:
        counts = {
            "every_n_tokens": every_n_tokens,
            "dead_after_tokens": dead_after_tokens,
            "pool_tokens": pool_tokens,
            "n_times": n_times,
        }
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"ResampleDeadLatents: {name} must be at least 1, got {value}.")
        if encoder_scale is not None and not encoder_scale > 0:
            raise ValueError(
                f"ResampleDeadLatents: encoder_scale must be positive or null, got {encoder_scale}."
            )
        self.every_n_tokens = every_n_tokens
        self.dead_after_tokens = dead_after_tokens
        self.pool_tokens = pool_tokens
        self.n_times = n_times
        self.encoder_scale = encoder_scale
        self.tokens_seen = 0
        self.n_events = 0
        self.n_resampled = 0
        self._inputs: list[Tensor] = []
        self._losses: list[Tensor] = []

    def check(self, module: SAETraining, n_training_tokens: float | int) -> None:
        """Raises ValueError where this callback would do nothing in such a run."""
        if not module.decoder.rows_are_free:
            raise ValueError(
                f"ResampleDeadLatents cannot set atoms of {type(module.decoder).__name__}; leave "
                "the callback or model.decoder out."
            )
        if self.every_n_tokens > n_training_tokens:
            raise ValueError(
                f"ResampleDeadLatents: every_n_tokens={self.every_n_tokens} is longer than the run "
                f"of {n_training_tokens:.0f} tokens; lower it or raise trainer.max_steps."
            )
        if self.dead_after_tokens >= n_training_tokens:
            raise ValueError(
                f"ResampleDeadLatents: with dead_after_tokens={self.dead_after_tokens} no latent "
                f"can be dead in a run of {n_training_tokens:.0f} tokens; lower it or raise "
                "trainer.max_steps."
            )

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: ActivationBatch,
        batch_idx: int,
    ) -> None:
        module = _sae_training(pl_module)
        self.tokens_seen += len(batch.acts) * world_size()
        if self.n_events < self.n_times:
            next_event = (self.n_events + 1) * self.every_n_tokens
            if self.tokens_seen > next_event - self.pool_tokens:
                self._collect(batch.acts, outputs["step"])
            if self.tokens_seen >= next_event:
                self._resample(trainer, module)
        if is_logged(trainer, trainer.global_step):
            module.log("train/resampled", float(self.n_resampled))

    def _collect(self, acts: Float[Tensor, "b d"], step: StepOutput) -> None:
        self._inputs.append(acts.detach())
        self._losses.append(step.error_b)

    def _resample(self, trainer: L.Trainer, module: SAETraining) -> None:
        dead = dead_latents(module.tokens_since_fired, self.dead_after_tokens)
        ids = dead.nonzero().flatten()
        if len(ids) > 0:
            seed = torch.initial_seed() + self.n_events
            rows = draw_inputs(
                # Batch by batch, the order that a single process would hold them in.
                torch.cat([gather_rows(acts) for acts in self._inputs]),
                torch.cat([gather_rows(losses) for losses in self._losses]),
                len(ids),
                torch.Generator().manual_seed(seed % 2**63),
            )
            rows = broadcast_from_first(rows.float().contiguous())
            optimizer = trainer.optimizers[0]
            resample_rows(module.sae, optimizer, ids, rows, ~dead, self._scale_for(module))
            module.tokens_since_fired[ids] = 0
        self.n_resampled += len(ids)
        self.n_events += 1
        self._inputs, self._losses = [], []

    def _scale_for(self, module: SAETraining) -> float:
        if self.encoder_scale is not None:
            return self.encoder_scale
        return 0.2 if module.sae.cfg.activation in ("relu", "gated") else 1.0

    def state_dict(self) -> dict[str, Any]:
        return {
            "tokens_seen": self.tokens_seen,
            "n_events": self.n_events,
            "n_resampled": self.n_resampled,
            # Only inside the window before an event is there anything to keep.
            "inputs": [t.cpu() for t in self._inputs],
            "losses": [t.cpu() for t in self._losses],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.tokens_seen = state_dict["tokens_seen"]
        self.n_events = state_dict["n_events"]
        self.n_resampled = state_dict["n_resampled"]
        self._inputs = list(state_dict["inputs"])
        self._losses = list(state_dict["losses"])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # A pool from a checkpoint comes back on the CPU.
        self._inputs = [t.to(pl_module.device) for t in self._inputs]
        self._losses = [t.to(pl_module.device) for t in self._losses]


def _sae_training(module: L.LightningModule) -> SAETraining:
    if not isinstance(module, SAETraining):
        raise TypeError(f"ResampleDeadLatents works on SAETraining, not {type(module).__name__}.")
    return module
