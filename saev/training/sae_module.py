"""LightningModule that trains one sparse autoencoder.

Shapes: `b` tokens, `d` d_model, `s` d_sae, `n` tokens of the starting pool.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import lightning as L
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from saev.metrics import ReconstructionMetrics
from saev.sae import SparseAutoencoder
from saev.sae.atoms import UnitAtoms, fold_norms_
from saev.sae.dead import (
    advance_since_fired,
    auxk,
    candidate_rows,
    dead_latents,
    default_k_aux,
)
from saev.sae.encode import BatchCodes, Encoding, encode_normalized
from saev.sae.initialize import (
    best_gain,
    initialize_,
    normalize_atoms_,
    point_atoms_at_data_,
    pool_center,
    some_normal,
)
from saev.sae.objectives import Objective, Step
from saev.sae.objectives.objective import l1
from saev.sae.products import GradientMemory, wide_on_cpu
from saev.training.arguments import (
    AUTO,
    Initialization,
    JumpReLUTraining,
    LearningRate,
    check_dead_latents,
    check_end,
    check_optimizer,
    check_together,
    count_latents,
    given_rate,
    make_config,
    make_objective,
    node,
)
from saev.training.distributed import (
    gather_rows,
    max_over_ranks,
    mean_over_ranks,
    rank,
    variation_of_all,
    world_size,
)
from saev.training.resume_points import refuse_divergence, require_finite
from saev.training.schedules import (
    AuxPlan,
    by_factor,
    candidates,
    is_logged,
    make_plan,
    peak_rate,
    rate_factor,
)

CODES_AT_ONCE = 2**26
"""Codes held at once in validation: 256 MB."""

THRESHOLD_SHARE = 0.1
"""Weight of each batch in the threshold that BatchTopK validates with while it is trained: it lags
some ten steps behind. The one that is exported is measured afterwards."""


CONSTANT = LearningRate(warmup_steps=0, decay_fraction=0)
"""The learning rate that the optimiser was built with, throughout."""

NOT_PLAIN = ["optimizer", "objective", "decoder", "init", "jump_relu", "learning_rate"]
"""Arguments that may be objects; the last three are kept as their fields."""


@runtime_checkable
class ActivationBatch(Protocol):
    """What a batch must have: raw activations."""

    @property
    def acts(self) -> Float[Tensor, "b d"]: ...


class StepOutput(NamedTuple):
    """What callbacks get of a training step besides the loss; on the device, without gradient."""

    error_b: Float[Tensor, " b"]
    """Squared error of each token, normalised units."""
    firing_counts: Int[Tensor, " s"]
    """On how many tokens of this rank's batch each latent fired."""


class SAETraining(L.LightningModule):
    """Trains ``.sae`` on batches of raw activations; ``.export()`` gives what is kept.

    Four choices that do not know of each other: the activation, the objective, the decoder's
    parameterisation, and what is done for dead latents (AuxK here, resampling as a callback). What
    makes no sense together is refused here, before any data is read.

    Loss in normalised units: the objective's terms + aux_coefficient·d·AuxK. AuxK is a ratio around
    1 and E‖x̄‖² = d, so the factor d puts the two in the proportion of Gao et al., who divide the
    first by the variance; without it AuxK revives next to nothing.

    Before training, ``set_data_statistics`` fixes the input normalisation and ``initialize_from``
    what starts at the data: decoder bias, threshold, atoms.

    Args:
        d_model: width of the activations.
        optimizer: builds the optimiser from parameters, e.g. a partial of ``torch.optim.Adam``; its
            ``lr`` may be "auto", see ``schedules.adam_rate``, which needs ``tokens_per_step``.
        activation: one of ``saev.sae.config.ACTIVATIONS``.
        dead_after_tokens: a latent inactive for so many tokens, over all ranks, is dead.
        init: where weights start, an ``Initialization`` or its fields.
        k: latents per token, see ``SAEConfig.k``.
        d_sae: number of latents.
        expansion: d_sae as a multiple of d_model, where ``d_sae`` is not given.
        objective: what is minimised, see ``saev.sae.objectives``; None: the squared error alone.
        decoder: how atoms are parameterised, see ``saev.sae.atoms``; None: free directions.
        subtract_b_dec: whether the encoder sees x̄ − b_dec or x̄.
        aux_coefficient: weight of AuxK; 0 leaves it out.
        k_aux: dead latents that explain each token's error; None: power of two nearest d_model / 2.
        jump_relu: a ``JumpReLUTraining`` or its fields; for that activation and no other.
        learning_rate: a ``LearningRate`` or its fields; None: constant.

    Raises:
        ValueError: an argument is out of range, or two do not go together; one sentence with the
            config key and the value.
    """

    def __init__(
        self,
        d_model: int,
        optimizer: Callable[..., Optimizer],
        activation: str,
        dead_after_tokens: int,
        init: Initialization | Mapping[str, Any],
        k: int | float | None = None,
        d_sae: int | None = None,
        expansion: float | int | None = None,
        objective: Objective | Mapping[str, Any] | None = None,
        decoder: UnitAtoms | None = None,
        subtract_b_dec: bool = True,
        aux_coefficient: float | int = 0.0,
        k_aux: int | None = None,
        jump_relu: JumpReLUTraining | Mapping[str, Any] | None = None,
        learning_rate: LearningRate | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_dead_latents(dead_after_tokens, aux_coefficient, k_aux)
        check_optimizer(optimizer)
        self._make_optimizer = optimizer
        self.tokens_per_step: int | None = None
        """Of one rank; set by whoever knows the data."""
        self.precision: str | None = None
        """What ``trainer.precision=auto`` came to, where that was asked for."""
        self.peak: dict[str, float] = {}
        """``lr``, once the optimiser is made; no hyper-parameter, as it is made anew with each run."""
        self.init = node(Initialization, "init", init)
        self.rate = node(
            LearningRate, "learning_rate", CONSTANT if learning_rate is None else learning_rate
        )
        self.jump = None if jump_relu is None else node(JumpReLUTraining, "jump_relu", jump_relu)
        n_latents = count_latents(d_model, d_sae, expansion)
        cfg = make_config(d_model, n_latents, activation, k, subtract_b_dec)
        self.objective, self.decoder = make_objective(objective), decoder or UnitAtoms()
        check_together(cfg, self.objective, self.decoder, self.jump, self.init)
        self.k_aux = min(k_aux if k_aux is not None else default_k_aux(d_model), n_latents)
        # Plain values only: a checkpoint is opened with weights_only=True.
        self.save_hyperparameters(ignore=NOT_PLAIN, logger=False)
        self.hparams.update(
            init=asdict(self.init),
            learning_rate=asdict(self.rate),
            jump_relu=self.jump and asdict(self.jump),
        )

        self.sae = SparseAutoencoder(cfg)
        initialize_(self.sae.W_enc, self.sae.W_dec, self.init.encoder)
        self.decoder.attach(self.sae)
        self.memory = GradientMemory()
        self.encoding = Encoding(gather=gather_rows, memory=self.memory)
        if self.jump is not None:
            start, paper = self.jump.start_threshold, 0.001 * d_model**0.5
            self.sae.threshold.data.fill_(paper if start is None else start)
            self.encoding = replace(
                self.encoding,
                bandwidth=self.jump.bandwidth,
                jump_to_input=self.jump.jump_to_input,
            )
        self.averaged: dict[str, Tensor] | None = None
        self.val_metrics = ReconstructionMetrics(d_model, n_latents)
        self.outlier_metrics = ReconstructionMetrics(d_model, n_latents)
        self.tokens_since_fired: Tensor
        self.register_buffer("tokens_since_fired", torch.zeros(n_latents, dtype=torch.long))
        self._aux_plan = AuxPlan(0, 0, 0)
        self._total_steps = float("inf")
        self._last_loss = torch.zeros(())

    # --- before training ---------------------------------------------------------------------

    def set_data_statistics(
        self, mean: Float[Tensor, " d"], scale: float | int, max_norm: float | int | None
    ) -> None:
        """Fix the input normalisation and the norm above which a token is left out of ``val/``.

        Raises:
            ValueError: a mean of another width, a scale that is not positive.
        """
        self.sae.set_statistics(mean, scale, max_norm)
        cfg = self.sae.cfg
        self.val_metrics = ReconstructionMetrics(cfg.d_model, cfg.d_sae, shift=self.sae.mean)
        self.outlier_metrics = ReconstructionMetrics(cfg.d_model, cfg.d_sae, shift=self.sae.mean)

    @torch.no_grad()
    def initialize_from(self, pool: Float[Tensor, "n d"]) -> None:
        """Start b_dec, the threshold and the atoms at the normal tokens among raw activations.

        Raises:
            ValueError: no token of the pool is normal, or too few for the decoder.
        """
        normal = pool[self.sae.is_normal(pool)]
        if len(normal) == 0:
            raise ValueError(
                f"None of the {len(pool)} pool tokens has a norm of at most "
                f"{self.sae.cfg.max_norm}; raise tokens.max_norm."
            )
        pool_bar = self.sae.normalize(normal)
        self.sae.b_dec.copy_(pool_center(pool_bar, self.init.bias))
        if self.init.atoms == "data":
            centred = pool_bar - self.sae.b_dec
            point_atoms_at_data_(self.sae.W_enc, self.sae.W_dec, centred)
        self.decoder.start_from(self.sae, pool_bar)
        given = self.jump is not None and self.jump.start_threshold is not None
        k, threshold = self.sae.cfg.k, getattr(self.sae, "threshold", None)
        if threshold is not None and k is not None and not given:
            from saev.sae.threshold import threshold_for

            threshold.fill_(threshold_for(self.sae, [normal], k))
        if self.init.encoder == "best_gain":
            gain = best_gain(self.sae, some_normal(self.sae, normal))
            self.sae.W_enc.mul_(gain)
            if threshold is not None:
                threshold.mul_(gain)

    def check_length(self, n_steps: float | int) -> None:
        """Raises ValueError where a schedule needs to know the end of a run that has none."""
        check_end(self.rate, self.objective, n_steps, auto=given_rate(self._make_optimizer) == AUTO)

    def configure_optimizers(self) -> Any:
        total = self.trainer.estimated_stepping_batches
        self.check_length(total)
        if total > 0:
            self._total_steps = float(total)
        rate = rate_factor(total, self.sae.cfg.d_sae, self.rate)
        factors = {"sae.W_enc": self.rate.encoder_factor}
        if self.jump is not None:
            factors["sae.threshold"] = self.jump.threshold_lr_factor
        groups, rates = [], []
        for factor, params in by_factor(self.named_parameters(), factors).items():
            groups.append({"params": params})
            rates.append(lambda step, factor=factor: factor * rate(step))
        batches = self.trainer.world_size * self.trainer.accumulate_grad_batches
        n_tokens = None if self.tokens_per_step is None else self.tokens_per_step * batches
        lr = peak_rate(self._make_optimizer, self.sae.cfg.d_sae, n_tokens, total)
        self.peak = lr
        optimizer = self._make_optimizer(groups, **lr)  # pyright: ignore[reportArgumentType]
        scheduler = {"scheduler": LambdaLR(optimizer, rates), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    # --- training ----------------------------------------------------------------------------

    def training_step(self, batch: ActivationBatch, batch_idx: int) -> dict[str, Any]:
        x_bar = self.sae.normalize(batch.acts)
        step = Step(
            x_bar,
            target=x_bar,
            W_dec=self.decoder.atoms(self.sae),
            how=self.encoding,
            number=self.global_step,
            total=self._total_steps,
            seed=torch.initial_seed(),
            mean_over_ranks=mean_over_ranks,
        )
        x_hat, codes, terms, error_b = self.objective(self.sae, step)
        if self.hparams["aux_coefficient"] > 0:
            weight = self.hparams["aux_coefficient"] * self.sae.cfg.d_model
            terms["aux"] = weight * self._aux_loss(step, x_hat)
        loss = torch.stack(list(terms.values())).sum()
        if codes.threshold is not None:
            self.sae.threshold.lerp_(codes.threshold.to(self.sae.threshold), THRESHOLD_SHARE)
        self._count_firing(codes, len(x_bar))
        self._last_loss = loss.detach()
        # What only serves the log is computed in the steps that are logged.
        if is_logged(self.trainer, self.global_step + 1):
            self._log_step(loss, terms, step, x_hat, codes)
        return {"loss": loss, "step": StepOutput(error_b.detach(), codes.firing_counts())}

    def _aux_loss(self, step: Step, x_hat: Float[Tensor, "b d"]) -> Float[Tensor, ""]:
        n_tokens = len(step.x_bar) * world_size()
        dead_after = self.hparams["dead_after_tokens"]
        if not self._aux_plan.covers(self.global_step, n_tokens):
            self._aux_plan = make_plan(
                self.tokens_since_fired,
                dead_after,
                self.global_step,
                n_tokens,
                self.sae.cfg.d_model,
            )
        if self._aux_plan.n_candidates == 0:
            return step.x_bar.new_zeros(())
        ids = candidates(self.tokens_since_fired, self._aux_plan.n_candidates)
        sae = self.sae
        error = step.target - x_hat
        return auxk(
            step.x_bar,
            error,
            candidate_rows(sae.W_enc, ids),
            sae.b_enc[ids],
            candidate_rows(step.W_dec, ids),
            sae.input_shift,
            dead_latents(self.tokens_since_fired[ids], dead_after),
            self.k_aux,
            variation_of_all(error.detach()) if world_size() > 1 else None,
        )

    @torch.no_grad()
    def _count_firing(self, codes: BatchCodes, n_tokens: int) -> None:
        last = codes.last_firing()
        # Ranks' batches count as one after the other.
        last = max_over_ranks(torch.where(last >= 0, last + rank() * n_tokens, -1))
        since = advance_since_fired(self.tokens_since_fired, last, n_tokens * world_size())
        self.tokens_since_fired.copy_(since)

    @torch.no_grad()
    def _log_step(
        self, loss: Tensor, terms: dict[str, Tensor], step: Step, x_hat: Tensor, codes: BatchCodes
    ) -> None:
        error = (step.target - x_hat).square().sum()
        of_this_rank = {
            "loss": loss,
            **terms,
            "l0": (codes.values > 0).sum(-1).float().mean(),
            "l1": l1(codes.values).mean(),
        }
        values = {
            **{name: mean_over_ranks(value.detach()) for name, value in of_this_rank.items()},
            "explained_variance": 1 - mean_over_ranks(error) / variation_of_all(step.target),
            "lr": self.trainer.optimizers[0].param_groups[0]["lr"],
            **self.objective.scalars(step),
        }
        refuse_divergence(self.trainer, "the loss", values["loss"])
        self.log_dict({f"train/{name}": value for name, value in values.items()})

    def on_train_end(self) -> None:
        self._refuse_divergence()

    def _refuse_divergence(self) -> None:
        refuse_divergence(self.trainer, "the loss", mean_over_ranks(self._last_loss))
        for name, weights in self.sae.named_parameters():
            refuse_divergence(self.trainer, name, weights)

    def on_after_backward(self) -> None:
        # Here rather than before the step: whoever looks at gradients there sees what is left.
        self.decoder.after_backward(self.sae)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as the Trainer asks.

        Lightning refuses to clip for a fused optimiser under any mixed precision; only a gradient
        scaler (float16) is a reason to, so its own check is left to that case.
        """
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val and gradient_clip_algorithm == "value":
            nn.utils.clip_grad_value_(self.parameters(), gradient_clip_val)
        elif gradient_clip_val:
            nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        self.memory.give_back(p.grad for p in self.parameters() if p.grad is not None)
        super().optimizer_zero_grad(epoch, batch_idx, optimizer)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.decoder.after_step(self.sae)

    # --- validation --------------------------------------------------------------------------

    def validation_step(self, batch: ActivationBatch, batch_idx: int) -> None:
        with wide_on_cpu(batch.acts.device):
            for x in batch.acts.split(max(1, CODES_AT_ONCE // self.sae.cfg.d_sae)):
                x = x.to(self.sae.W_enc.dtype)
                x_hat, z, latents = self._reconstruct(x)
                normal = self.sae.is_normal(x)
                if normal.all():
                    self.val_metrics.update(x, x_hat, z, latents)
                    continue
                for metrics, rows in ((self.val_metrics, normal), (self.outlier_metrics, ~normal)):
                    named = None if latents is None else latents[rows]
                    metrics.update(x[rows], x_hat[rows], z[rows], named)

    def _reconstruct(self, x: Float[Tensor, "b d"]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Reconstructions, and codes of all latents or of those named."""
        if self.sae.cfg.activation != "topk":  # others choose otherwise in training
            z = self.sae.encode(x)
            return self.sae.decode(z), z, None
        codes = encode_normalized(self.sae, self.sae.normalize(x), self.encoding)
        x_hat = codes.decode(self.sae.W_dec, self.sae.b_dec)
        return self.sae.denormalize(x_hat), codes.values, codes.indices

    def on_validation_epoch_end(self) -> None:
        found = {"val": self.val_metrics.compute()}
        self.val_metrics.merge(self.outlier_metrics)
        found["val_all"] = self.val_metrics.compute()
        for stage, values in found.items():
            # The metrics are already summed over ranks; equal values stay what they are.
            self.log_dict(
                {f"{stage}/{name}": value for name, value in values.items()}, sync_dist=True
            )
        for metrics in (self.val_metrics, self.outlier_metrics):
            metrics.reset()

    # --- what is kept ------------------------------------------------------------------------

    def export(self, **provenance: Any) -> SparseAutoencoder:
        """The trained dictionary, apart from this module, in eval mode and without gradients.

        Args:
            provenance: fields of ``SAEConfig`` to fill in: backbone, layer, tokens, manifest_id.

        The weights are the averaged ones where a callback keeps an average.

        Raises:
            UserError: weights that are not finite.
        """
        recipe = {
            **dict(self.hparams.items()),
            **self.peak,
            **({} if self.precision is None else {"precision": self.precision}),
            "objective": self.objective.describe(),
            "decoder": self.decoder.describe(),
        }
        sae = SparseAutoencoder(replace(self.sae.cfg, recipe=recipe, **provenance))
        weights = {**self.sae.state_dict(), **(self.averaged or {})}
        sae.to(self.sae.W_enc.dtype).load_state_dict(weights)
        if self.averaged is not None and self.decoder.unit:
            normalize_atoms_(sae.W_dec)
        if not self.decoder.unit:
            fold_norms_(sae)
        require_finite(sae)
        return sae.to(self.sae.W_enc.device).eval().requires_grad_(False)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._refuse_divergence()
        checkpoint["sae"] = {
            "max_norm": self.sae.cfg.max_norm,
            "aux_plan": tuple(self._aux_plan),
            "precision": self.precision,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        kept = checkpoint["sae"]
        self.sae.cfg = replace(self.sae.cfg, max_norm=kept["max_norm"])
        self._aux_plan = AuxPlan(*kept["aux_plan"])
