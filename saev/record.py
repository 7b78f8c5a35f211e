"""``python -m saev.record``: images → frozen backbone → activation tars, resumable at any moment.

``verify=DIR`` recomputes the checksums of a recording instead.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from saev.cli.command import command, refuse_multirun_ddp
from saev.cli.console import print_next, print_table
from saev.cli.refusals import of_kind
from saev.cli.tracked_run import tracked_run

if TYPE_CHECKING:
    import lightning as L

    from datamodules.activations import Manifest
    from datamodules.images import ImageSource
    from saev.backbones import Backbone


def record(cfg: DictConfig) -> dict[int, Path]:
    """Records the images of ``cfg.images`` at every layer asked for; layer → folder.

    Raises:
        UserError: one sentence on what cannot be done and what to set.
    """
    import lightning as L

    from datamodules.activations import Manifest
    from datamodules.images import ImageSource
    from saev.backbones import Backbone

    refuse_multirun_ddp(cfg)
    out_dir = Path(cfg.paths.run)
    trainer = cfg.trainer
    fabric = L.Fabric(
        accelerator=trainer.accelerator,
        devices=trainer.devices,
        strategy=trainer.get("strategy", "auto"),
    )
    fabric.launch()
    with tracked_run(cfg, out_dir, verb="record") as tracking:
        backbone = of_kind("backbone", instantiate(cfg.backbone), Backbone)
        source = of_kind("images", instantiate(cfg.images), ImageSource)
        folders = record_all(cfg, backbone, source, fabric)
        manifests = {layer: Manifest.read(folder) for layer, folder in folders.items()}
        for layer, manifest in manifests.items():
            tracking.log_artifact(folders[layer] / "manifest.json", f"layer{layer}")
            tracking.set_tags({f"saev.sha256.manifest.layer{layer}": manifest.sha256})
    _show(folders, manifests)
    return folders


def record_all(
    cfg: DictConfig, backbone: "Backbone", source: "ImageSource", fabric: "L.Fabric"
) -> dict[int, Path]:
    """Records every layer of ``record.layers``, and ``backbone.layer``, that is not on disk yet."""
    from saev.recording.recorder import record
    from saev.recording.request import RecordingRequest

    settings = cfg.record
    request = RecordingRequest.of(
        backbone,
        source,
        [backbone.layer, *(settings.layers or [])],
        tokens=cfg.tokens.which,
        n_per_image=cfg.tokens.n_per_image,
        dtype=settings.dtype,
        images_per_shard=settings.images_per_shard,
        seed=settings.seed,
    )
    return record(
        request,
        backbone.to(fabric.device),
        source,
        settings.root,
        batch_size=settings.batch_size,
        num_workers=settings.num_workers,
        precision=str(settings.precision),
        max_norm=cfg.tokens.max_norm,
        fabric=fabric,
    )


def _show(folders: dict[int, Path], manifests: "dict[int, Manifest]") -> None:
    rows = []
    for layer, manifest in manifests.items():
        statistics = manifest.statistics
        n_images = sum(shard.n_images for shard in manifest.shards)
        n_tokens = sum(shard.n_tokens for shard in manifest.shards)
        normal = statistics.n_normal / max(1, statistics.n_tokens)
        limit = "–" if statistics.max_norm is None else f"{statistics.max_norm:.4g}"
        rows.append(
            [
                str(folders[layer]), str(layer), f"{n_images:,}", f"{n_tokens:,}",
                f"{statistics.median_norm:.4g}", limit, f"{100 * normal:.2f} %",
                str(len(manifest.skipped)),
            ]
        )  # fmt: skip
    columns = ["folder", "block", "images", "tokens", "median norm", "limit", "normal", "skipped"]
    print_table("Recorded activations", columns, rows)
    given = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    print_next([train_command(given, layer, folder) for layer, folder in folders.items()])


def train_command(given: Sequence[str], layer: int, folder: Path) -> str:
    """The command that trains on one layer's folder; what was ``given`` says model and images."""
    about = ("backbone=", "backbone.", "images=", "images.", "tokens.", "+experiment=")
    kept = [o for o in given if o.startswith(about) and not o.startswith("backbone.layer=")]
    words = [*kept, f"backbone.layer={layer}", f"data.dir={folder}"]
    return shlex.join(["python", "-m", "saev.train", *words])


def check(folder: str) -> None:
    """Recomputes every checksum of a recording; raises UserError when a shard is damaged."""
    from datamodules.activations.verify import require_intact

    require_intact(folder)
    print_table(f"{folder}: every shard is as recorded", [], [])


@command("record")
def main(cfg: DictConfig) -> None:
    if cfg.verify is not None:
        check(cfg.verify)
    else:
        record(cfg)


if __name__ == "__main__":
    main()
