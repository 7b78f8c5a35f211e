"""``python -m saev.evaluate sae=DIR``: an SAE on held-out images, each number beside its baselines."""

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from saev.backbones import Backbone, load_backbone
from saev.errors import UserError
from saev.experiment import evaluate_and_report, tracked_run
from saev.modules.heads import TrainedHead, load_head
from saev.sae import SparseAutoencoder
from saev.tracking import command, print_next


def evaluate(cfg: DictConfig) -> dict[str, float]:
    """Evaluates the SAE that ``cfg.sae`` names; returns what ``metrics.json`` holds.

    Raises:
        UserError: one sentence on what cannot be done and what to set.
    """
    out_dir = Path(cfg.paths.run)
    with tracked_run(cfg, out_dir, verb="evaluate") as tracking:
        sae = SparseAutoencoder.from_pretrained(cfg.sae)
        tracking.set_tags({"saev.sae": str(cfg.sae), "saev.manifest_id": str(sae.cfg.manifest_id)})
        head = load_head(cfg.head) if cfg.head is not None else None
        backbone = backbone_of(sae, cfg.sae, cfg.backbone.weights, head)
        images = cfg.get("images") or (head and head.recipe.get("images")) or sae.cfg.images
        if images is None:
            raise UserError(f"{cfg.sae} does not say which images it was trained on; set images=…")
        metrics = evaluate_and_report(
            sae,
            backbone,
            instantiate(images),
            cfg.evaluation,
            cfg.trainer.accelerator,
            out_dir,
            tracking,
            head,
        )
    print_next([f"less {out_dir / 'metrics.json'}", "make ui"])
    return metrics


def backbone_of(
    sae: SparseAutoencoder, name: str, weights: str | None, head: TrainedHead | None = None
) -> Backbone:
    """The backbone an SAE was trained on, from ``weights`` where they have moved.

    With a ``head``, as the head was trained on it: its preprocessing may differ.
    """
    if sae.cfg.backbone is None or sae.cfg.layer is None:
        raise UserError(f"{name} does not say which backbone and layer it belongs to")
    if (
        head is not None
        and head.backbone["weights"]["sha256"] != sae.cfg.backbone["weights"]["sha256"]
    ):
        raise UserError(
            f"the head was trained on {head.backbone['name']} and {name} on "
            f"{sae.cfg.backbone['name']}, or on other weights of it; give a head of the same model"
        )
    spec = dict((sae.cfg.backbone if head is None else head.backbone)["spec"])
    spec["layer"] = sae.cfg.layer
    if weights is not None:
        spec["weights"] = weights
    return load_backbone(**spec)


@command("evaluate")
def main(cfg: DictConfig) -> float:
    return evaluate(cfg)["val/explained_variance"]


if __name__ == "__main__":
    main()
