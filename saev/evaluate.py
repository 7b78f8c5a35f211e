"""``python -m saev.evaluate sae=DIR``: an SAE on held-out images, each number with its baselines.

``python -m saev.evaluate sae=DIR baselines.kinds=all``: a table of it and its baselines as well.
``python -m saev.evaluate sae=DIR benchmark=visaebench``: the seven numbers of a public benchmark.
``python -m saev.evaluate saes=[A,B] benchmark=visaebench``: a leaderboard on the same images.
``python -m saev.evaluate sweep=ID``: which members of a sweep to take, and why.
"""

from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING

from hydra.utils import instantiate
from omegaconf import DictConfig

from saev.cli.command import command
from saev.cli.console import print_next
from saev.cli.refusals import of_kind
from saev.cli.tracked_run import tracked_run
from saev.errors import UserError
from saev.tracking import Tracking

if TYPE_CHECKING:
    from datamodules.images import ImageSource
    from saev.backbones import Backbone
    from saev.evaluation.baselines.methods import BaselineSettings
    from saev.evaluation.visaebench.benchmark_table import BenchmarkTable
    from saev.evaluation.visaebench.settings import BenchmarkSettings
    from saev.sae import SparseAutoencoder


def evaluate(cfg: DictConfig) -> dict[str, float]:
    """Evaluates the SAE that ``cfg.sae`` names; returns what ``metrics.json`` holds.

    Raises:
        UserError: one sentence on what cannot be done and what to set.
    """
    from datamodules.images import ImageSource
    from saev.evaluation.baselines.methods import BaselineSettings
    from saev.evaluation.report import evaluate_and_report
    from saev.evaluation.visaebench.settings import BenchmarkSettings
    from saev.heads import load_head
    from saev.interop import open_sae
    from saev.loading import backbone_of, images_for

    if cfg.sae is None:
        raise UserError("nothing to evaluate; give a dictionary, sae=DIR, or a sweep, sweep=ID")
    settings = BaselineSettings(**cfg.baselines, seed=cfg.seed)
    benchmark = None
    if cfg.benchmark is not None:
        benchmark = BenchmarkSettings(**cfg.visaebench, seed=cfg.seed)
    out_dir = Path(cfg.paths.run)
    with tracked_run(cfg, out_dir, verb="evaluate") as tracking:
        sae = open_sae(cfg.sae)
        tracking.set_tags({"saev.sae": str(cfg.sae), "saev.manifest_id": str(sae.cfg.manifest_id)})
        head = load_head(cfg.head) if cfg.head is not None else None
        backbone = backbone_of(sae, str(cfg.sae), weights=cfg.backbone.weights, head=head)
        images = of_kind("images", instantiate(cfg.images), ImageSource, NoneType)
        source = images_for(sae, cfg.sae, images, head)
        metrics = evaluate_and_report(
            sae,
            backbone,
            source,
            cfg.evaluation,
            cfg.trainer.accelerator,
            out_dir,
            tracking,
            head,
        )
        if settings.wanted:
            metrics |= against_baselines(cfg, sae, backbone, source, settings, out_dir, tracking)
        if benchmark is not None:
            metrics |= on_visaebench(cfg, sae, backbone, source, benchmark, out_dir, tracking)
    shown = {"baselines": settings.wanted, "visaebench": benchmark is not None}
    pages = [f"xdg-open {out_dir / name / 'index.html'}" for name, made in shown.items() if made]
    print_next([*pages, f"less {out_dir / 'metrics.json'}", tracking.look])
    return metrics


def against_baselines(
    cfg: DictConfig, sae: "SparseAutoencoder", backbone: "Backbone", source: "ImageSource",
    settings: "BaselineSettings", out_dir: Path, tracking: Tracking,
) -> dict[str, float]:  # fmt: skip
    """Leaves the table metric × {SAE, baselines} in ``baselines/``; adds it to ``metrics.json``."""
    import json

    from datamodules.images import ImageSource
    from saev.cli.results import device_of, keep_metrics
    from saev.evaluation.baselines.table import PassSettings, baseline_table, report_table

    given = instantiate(cfg.concept_images) if cfg.get("concept_images") else None
    concept_source = of_kind("concept_images", given, ImageSource, NoneType)
    device = device_of(cfg.trainer.accelerator)
    one = cfg.evaluation
    run = PassSettings(one.fidelity, one.n_images, one.batch_size, one.num_workers, device)
    folder = out_dir / "baselines"
    table = baseline_table(sae, backbone, source, concept_source, settings, run, folder)
    flat = report_table(table, folder, tracking)
    measured = json.loads((out_dir / "metrics.json").read_text())
    keep_metrics(measured | flat, out_dir, tracking, new=flat)
    return flat


def on_visaebench(
    cfg: DictConfig, sae: "SparseAutoencoder", backbone: "Backbone", source: "ImageSource",
    settings: "BenchmarkSettings", out_dir: Path, tracking: Tracking,
) -> dict[str, float]:  # fmt: skip
    """Leaves the seven numbers of ViSAEBench in ``visaebench/``; adds them to ``metrics.json``."""
    import json

    from saev.cli.results import keep_metrics
    from saev.evaluation.visaebench.benchmark_files import benchmark_metrics
    from saev.evaluation.visaebench.page import print_benchmark

    folder = out_dir / "visaebench"
    table = benchmarked(cfg, sae, backbone, source, settings, folder)
    print_benchmark(table)
    tracking.log_artifact(folder, "visaebench")
    flat = benchmark_metrics(table)
    measured = json.loads((out_dir / "metrics.json").read_text())
    keep_metrics(measured | flat, out_dir, tracking, new=flat)
    return flat


def benchmarked(
    cfg: DictConfig, sae: "SparseAutoencoder", backbone: "Backbone", source: "ImageSource",
    settings: "BenchmarkSettings", folder: Path,
) -> "BenchmarkTable":  # fmt: skip
    """The seven numbers of one dictionary, with its tables and its page in ``folder``."""
    from datamodules.images import ImageSource
    from saev.backbones import Backbone
    from saev.cli.results import device_of
    from saev.evaluation.baselines.table import PassSettings
    from saev.evaluation.visaebench.benchmark_files import write_benchmark
    from saev.evaluation.visaebench.benchmark_table import benchmark_table
    from saev.evaluation.visaebench.page import write_benchmark_page

    given = instantiate(cfg.transfer_images) if cfg.get("transfer_images") else None
    other = of_kind("transfer_images", given, ImageSource, NoneType)
    embedder = of_kind("embedder", instantiate(cfg.embedder), Backbone, NoneType)
    device, one = device_of(cfg.trainer.accelerator), cfg.evaluation
    run = PassSettings(False, settings.n_images, one.batch_size, one.num_workers, device)
    table = benchmark_table(sae, backbone, source, other, embedder, settings, run)
    write_benchmark(table, settings, folder)
    write_benchmark_page(table, folder)
    return table


def rank_on_visaebench(cfg: DictConfig) -> None:
    """Leaves the leaderboard of the dictionaries ``cfg.saes`` in ``visaebench/``.

    Raises:
        UserError: one sentence on what cannot be done and what to set.
    """
    from datamodules.images import ImageSource
    from saev.cli.results import keep_metrics
    from saev.evaluation.visaebench.leaderboard import leaderboard_metrics, write_leaderboard
    from saev.evaluation.visaebench.settings import BenchmarkSettings, entrants_of
    from saev.loading import images_for, open_dictionary

    for key in ("sae", "sweep", "head"):
        if cfg[key] is not None:
            raise UserError(f"saes and {key} are two different questions; give one of them")
    if cfg.benchmark is None:
        raise UserError("saes are for a leaderboard; give benchmark=visaebench, or one sae=DIR")
    where = entrants_of(cfg.saes, cfg.names)
    settings = BenchmarkSettings(**cfg.visaebench, seed=cfg.seed)
    out_dir = Path(cfg.paths.run)
    folder = out_dir / "visaebench"
    with tracked_run(cfg, out_dir, verb="evaluate") as tracking:
        images = of_kind("images", instantiate(cfg.images), ImageSource, NoneType)
        tables, source = {}, images
        for name, path in where.items():
            sae, backbone = open_dictionary(path, cfg.backbone.weights)
            source = source or images_for(sae, path, None)
            tables[name] = benchmarked(cfg, sae, backbone, source, settings, folder / name)
        write_leaderboard(tables, where, folder)
        tracking.log_artifact(folder, "visaebench")
        keep_metrics(leaderboard_metrics(tables), out_dir, tracking)
    print_next(
        [f"xdg-open {folder / 'index.html'}", f"less {out_dir / 'metrics.json'}", tracking.look]
    )


def choose_in_sweep(cfg: DictConfig) -> None:
    """Draws the Pareto front of ``cfg.sweep`` and registers picks on it; leaves ``choice/``.

    Raises:
        UserError: one sentence on what cannot be done and what to set.
    """
    from saev.evaluation.choice.choice import choose, show_choice
    from saev.evaluation.choice.outcome import ChoiceSettings

    if cfg.sae is not None:
        raise UserError("sae and sweep are two different questions; give one of them")
    if cfg.benchmark is not None:
        raise UserError(
            f"benchmark={cfg.benchmark} is of a dictionary, sae=DIR, and not of a sweep"
        )
    settings = ChoiceSettings(**cfg.choice)
    out_dir = Path(cfg.paths.run)
    with tracked_run(cfg, out_dir, verb="evaluate") as tracking:
        choice = choose(str(cfg.sweep), settings, out_dir, tracking)
    show_choice(choice)
    print_next([f"xdg-open {out_dir / 'choice' / 'index.html'}", tracking.look])


@command("evaluate")
def main(cfg: DictConfig) -> float | None:
    if cfg.saes:
        return rank_on_visaebench(cfg)
    if cfg.sweep is not None:
        return choose_in_sweep(cfg)
    return evaluate(cfg)["val/explained_variance"]


if __name__ == "__main__":
    main()
