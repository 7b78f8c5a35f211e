"""LightningDataModule of a folder of activation tars."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch

from datamodules.activations.format import Manifest, Statistics, is_url
from datamodules.activations.loader import BatchLoader, SizedBatchLoader
from datamodules.activations.norms import check_multiple, compute_statistics
from datamodules.activations.position import StreamPosition
from datamodules.activations.stream import TokenStream
from datamodules.activations.verify import Stamp, require_intact, stamps
from saev.errors import UserError

if TYPE_CHECKING:
    from datamodules.activations.remote import RemoteShards


@runtime_checkable
class BelongsTo(Protocol):
    """What the config of a dictionary says of the activations it is for."""

    @property
    def d_model(self) -> int: ...
    @property
    def layer(self) -> int | None: ...
    @property
    def backbone(self) -> dict[str, Any] | None: ...


class ActivationDataModule(StreamPosition):
    """Batches of tokens from the tars in ``dir``, a path or an http(s):// or s3:// URL.

    ``batch_size`` is in tokens per rank; ``reservoir_tokens`` per worker (see ``TokenStream``);
    ``max_norm`` is the largest norm of a training token as a multiple of the median, None for no
    limit. ``num_workers`` is lowered to what the number of shards can feed. Validation gives all
    held-out tokens, normal or not.

    The training stream has no end: train with ``max_steps``. Its position, in batches the trainer
    has consumed, is part of every checkpoint, and a run resumed with the same ``batch_size``,
    ``num_workers`` and number of ranks goes on with the batch it would have seen next.

    ``prepare_data`` raises UserError for missing, cut off or altered tars (``verify_checksums``
    reads each of them whole, and one that is written to afterwards again; without it, and at a URL,
    damage is found when a tar is read). Of a recording at a URL up to ``cache_gb`` gigabytes of tars are
    kept in ``cache_dir``, each checked as it comes.
    """

    def __init__(
        self,
        dir: str | Path,
        batch_size: int,
        reservoir_tokens: int,
        num_workers: int,
        seed: int,
        drop_last: bool,
        max_norm: float | None,
        verify_checksums: bool,
        val_batch_size: int | None = None,
        pin_memory: bool | None = None,
        cache_dir: str | Path | None = None,
        cache_gb: float | int = 0,
    ) -> None:
        super().__init__()
        check_multiple(max_norm)
        if batch_size < 1:
            raise ValueError(f"data.batch_size={batch_size} must be at least 1 token.")
        if num_workers < 0:
            raise ValueError(f"data.num_workers={num_workers} must be 0 or more.")
        self.dir = dir
        self.batch_size, self.val_batch_size = batch_size, val_batch_size or batch_size
        self.reservoir_tokens, self.num_workers = reservoir_tokens, num_workers
        self.seed, self.drop_last, self.max_norm = seed, drop_last, max_norm
        self.verify_checksums = verify_checksums
        self.pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory
        self.cache_dir, self.cache_gb = cache_dir, cache_gb
        self._verified: dict[str, Stamp] | None = None

    @cached_property
    def manifest(self) -> Manifest:
        """Of the folder; raises UserError when there is none that this program can read."""
        return Manifest.read(self.dir)

    @cached_property
    def statistics(self) -> Statistics:
        """For ``max_norm``: the manifest's, or computed anew if it was recorded with another."""
        return compute_statistics(self.dir, self.max_norm, self.manifest)

    def check_backbone(self, cfg: BelongsTo) -> None:
        """Raises UserError unless these are activations of the layer and model the SAE is for.

        What the SAE's config leaves open (the hash of the weights, say) is not compared.
        """
        here = self.manifest
        found = {"layer": here.layer, "width": here.width, **_identity(here.backbone)}
        wanted = {"layer": cfg.layer, "width": cfg.d_model, **_identity(cfg.backbone or {})}
        for name, value in wanted.items():
            if value is not None and value != found[name]:
                raise UserError(
                    f"The activations in {self.dir} have {name} {found[name]}, the SAE was made for"
                    f" {value}: use activations of the same backbone, weights and layer."
                )

    def prepare_data(self) -> None:
        """Checks the tars, and takes statistics if the manifest has none for ``max_norm``."""
        if self._verified is None:
            found = stamps(self.dir, self.manifest.shards) if self.verify_checksums else {}
            require_intact(self.dir, checksums=self.verify_checksums and not is_url(self.dir))
            self._verified = found
        _ = self.statistics

    def setup(self, stage: str) -> None:
        """Reads the manifest; a fit without a checkpoint begins at the first batch."""
        _ = self.statistics
        super().setup(stage)

    def _stamps(self) -> dict[str, Stamp]:
        """Of the tars as they were verified, by this process or just now by another rank."""
        if self._verified is None and self.verify_checksums:
            return stamps(self.dir, self.manifest.shards)
        return self._verified or {}

    @cached_property
    def remote(self) -> RemoteShards | None:
        """Copies of tars at a URL; None where they are here, or where no room is given."""
        if not is_url(self.dir) or self.cache_dir is None or not self.cache_gb:
            return None
        from datamodules.activations.remote import RemoteShards

        return RemoteShards(str(self.dir), Path(self.cache_dir), 1e9 * self.cache_gb)

    def train_dataloader(self) -> BatchLoader:
        """Endless; each iteration over it begins at the current position."""
        rank, world_size = self.place()
        stream = TokenStream(
            self.dir,
            self.manifest,
            self.statistics,
            batch_size=self.batch_size,
            reservoir_tokens=self.reservoir_tokens,
            seed=self.seed,
            drop_last=self.drop_last,
            rank=rank,
            world_size=world_size,
            stamps=self._stamps(),
            remote=self.remote,
        )
        n_workers = min(self.num_workers, stream.max_workers)

        def go_on() -> None:
            self.begin_iteration()
            stream.start_batch = self.position

        return BatchLoader(stream, n_workers, self.pin_memory, before=go_on)

    def val_dataloader(self) -> SizedBatchLoader:
        """All held-out tokens in order, once."""
        from datamodules.activations.heldout import HeldoutTokens

        rank, world_size = self.place()
        tokens = HeldoutTokens(
            self.dir,
            self.manifest,
            batch_size=self.val_batch_size,
            rank=rank,
            world_size=world_size,
            stamps=self._stamps(),
            remote=self.remote,
        )
        return SizedBatchLoader(tokens, min(self.num_workers, 1), self.pin_memory)

    def test_dataloader(self) -> SizedBatchLoader:
        """The same as for validation."""
        return self.val_dataloader()

    def provenance(self) -> dict[str, Any]:
        """Fields of ``SAEConfig`` that say what a dictionary was fitted to."""
        manifest = self.manifest
        return {
            "backbone": manifest.backbone,
            "layer": manifest.layer,
            "tokens": manifest.tokens,
            "manifest_id": manifest.id,
            "manifest_sha256": manifest.sha256,
        }

    def order(self) -> dict[str, Any]:
        """What determines which tokens the n-th batch holds."""
        return {
            "manifest": self.manifest.sha256,
            "batch_size": self.batch_size,
            "reservoir_tokens": self.reservoir_tokens,
            "num_workers": self.num_workers,
            "world_size": self.place()[1],
            "seed": self.seed,
            "drop_last": self.drop_last,
            "max_norm": self.max_norm,
        }


def _identity(backbone: Mapping[str, Any]) -> dict[str, Any]:
    """Of a manifest's or an SAE's backbone; None for what it does not say."""
    weights = backbone.get("weights")
    sha256 = weights.get("sha256") if isinstance(weights, Mapping) else None
    return {
        "family": backbone.get("family"),
        "name": backbone.get("name"),
        "weights with SHA-256": backbone.get("weights_sha256", sha256),
    }
