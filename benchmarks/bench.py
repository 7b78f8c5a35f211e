"""How fast everything is, against limits that nobody passes: ``make bench``

    python -m benchmarks.bench [--what step memory loader record sweep] [--sizes 24576x1024] [--peers DIR]

Everything is timed in turns, each round beginning with another candidate; a ratio is the median of the
rounds' ratios. Leaves ``bench.json``, ``machine.json`` and ``bench.png`` below ``outputs/bench``, and a
run in the MLflow store. Quiet cores matter more than many rounds.
"""

import argparse
import datetime
import importlib.metadata
import json
import platform
import tempfile
from pathlib import Path

import torch

from benchmarks.speed import loading, memory, recording, steps, sweeping
from benchmarks.speed.figure import draw
from benchmarks.speed.peers import Peers
from benchmarks.speed.rows import Row, Shape, show, write
from saev.tracking import MLflowTracking

WHAT = ("step", "memory", "loader", "record", "sweep")
EVERY = list(steps.VARIANTS)
FEW = [
    "topk",
    "topk, bfloat16 candidates",
    "topk, a tenth dead",
    "bfloat16, a tenth dead",
    "batch_topk",
    "matryoshka",
    "dense",
]
SIZES = {"6144x4096": EVERY, "24576x1024": FEW, "24576x4096": ["topk", "topk, bfloat16 candidates"]}
"""Latents × tokens of a batch → variants; a dense step of the largest takes half a minute."""


def machine() -> dict[str, object]:
    """What numbers depend on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        model = platform.processor()
    packages = ("torch", "lightning", "numpy")
    return {
        "date": datetime.date.today().isoformat(),
        "processor": model,
        "threads": torch.get_num_threads(),
        "bfloat16": torch.backends.mkldnn.is_available() and _has_bfloat16(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


def _has_bfloat16() -> bool:
    try:
        return "avx512_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def track(rows: list[Row], out: Path, uri: str) -> None:
    """One run with every number, the table and the figure."""
    tracking = MLflowTracking(tracking_uri=uri, experiment_name="saev-bench")
    tracking.start("bench", {"saev.verb": "bench"}, machine())
    values = {}
    for row in rows:
        size = "" if row.d_sae is None else f" {row.d_sae}x{row.batch}"
        name = f"{row.what}/{row.variant}{size}".replace(",", "")
        values[name] = row.value
        if row.ratio is not None:
            values[f"{name} of {row.ratio_to}"] = row.ratio
    tracking.log_metrics(values)
    for path in sorted(out.glob("*.*")):
        tracking.log_artifact(path)
    tracking.finish("FINISHED")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--what", nargs="+", choices=WHAT, default=list(WHAT))
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), metavar="LATENTSxBATCH")
    parser.add_argument("--variants", nargs="+", choices=EVERY, help="of steps; default: by size")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1, help="of a variant in each round")
    parser.add_argument("--threads", type=int, help="of torch; default: its own choice")
    parser.add_argument("--peers", type=Path, help="folder of environments of other libraries")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench"))
    parser.add_argument("--tracking-uri", default="sqlite:///outputs/mlflow.db")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    rows: list[Row] = []
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "machine.json").write_text(json.dumps(machine(), indent=1) + "\n")

    def keep(more: list[Row]) -> None:
        rows.extend(more)
        write(rows, args.out / "bench.json")
        show(more)

    with tempfile.TemporaryDirectory() as scratch:
        if "loader" in args.what:
            keep(loading.measure(Path(scratch) / "loader", args.rounds))
        if "record" in args.what:
            keep(recording.measure(Path(scratch) / "record", args.rounds))
        if "sweep" in args.what:
            keep(sweeping.measure(Path(scratch) / "sweep", max(1, args.rounds // 3)))
    for text in args.sizes:
        shape = Shape.parse(text)
        names = args.variants or SIZES.get(text, FEW)
        peers = Peers(args.peers, args.steps) if args.peers else None
        if "step" in args.what:
            keep(steps.measure(shape, names, args.rounds, args.steps, peers))
        if "memory" in args.what:
            keep(memory.measure(shape, ["topk"]))
    draw(rows, machine(), args.out / "bench.png")
    track(rows, args.out, args.tracking_uri)
    print(f"{args.out / 'bench.json'}, {args.out / 'bench.png'}, and a run in {args.tracking_uri}")


if __name__ == "__main__":
    main()
