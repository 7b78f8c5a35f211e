"""Summary tables at the end of an evaluation."""

from saev.cli.console import print_table
from saev.editing import ARMS

RECONSTRUCTION = (
    ("explained_variance", "explained variance"),
    ("nmse", "NMSE"),
    ("cosine", "cosine"),
    ("l0", "L0"),
    ("dead_fraction", "dead"),
    ("dense_fraction", "dense"),
)
FIDELITY = (
    ("kl", "KL to clean"),
    ("agreement", "agreement"),
    ("accuracy", "accuracy"),
    ("cross_entropy", "cross-entropy"),
    ("patch_accuracy", "patch accuracy"),
    ("miou", "mean IoU"),
)


def show_metrics(metrics: dict[str, float], head: str | None, n_images: int) -> None:
    """Prints reconstruction and fidelity, each beside its baselines."""
    rows = [
        [label, *(_cell(metrics.get(f"{prefix}/{key}")) for key, _ in RECONSTRUCTION)]
        for prefix, label in (
            ("val", "this SAE, normal tokens"),
            ("val_all", "this SAE, all tokens"),
            ("untrained", "untrained SAE, normal tokens"),
        )
        if f"{prefix}/l0" in metrics
    ]
    print_table(
        f"Reconstruction on {n_images:,} held-out images",
        ["", *(title for _, title in RECONSTRUCTION)],
        rows,
    )
    if head is None:
        return
    present = [(k, t) for k, t in FIDELITY if f"fidelity/{k}/clean" in metrics]
    rows = [
        [arm.replace("_", "-"), *(_cell(metrics[f"fidelity/{key}/{arm}"]) for key, _ in present)]
        for arm in ARMS
    ]
    print_table(
        f"Predictions with replaced activations (head: {head}); "
        f"KL recovered {_cell(metrics.get('fidelity/kl_recovered'))}",
        ["activations", *(title for _, title in present)],
        rows,
    )


def _cell(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if abs(value) >= 100 else f"{value:.4f}"
