"""A dictionary of each library and of ours on the same tokens, put through the same commands.

    python -m benchmarks.peers_compared ENVS --out DIR [--data DIR]
    python -m benchmarks.peers_table DIR > docs/tables/libraries.md

ENVS holds a virtual environment for each library (``python -m benchmarks.speed.peers ENVS`` makes
them). ViT-Tiny is recorded once; each library trains on the normalised tokens with its own trainer at
its own rate and saves with its own function; ``saev.convert`` takes its folder, and ``saev.evaluate``,
``saev.describe`` and ``saev.intervene`` run on the result, then the seven numbers of ViSAEBench on
three sets of images. What has left its result is not run again; what fails is named and left out.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from benchmarks.peer_images import in_groups, with_few_pixels
from benchmarks.peers import ENVIRONMENTS, WORKER, check_import, write_tokens
from saev.intervention.hypothesis import HYPOTHESES_DIR

OURS = "saev"
PEERS = {
    OURS: OURS,
    "saelens": "saelens",
    "dictionary_learning": "dictionary_learning",
    "sparsify": "sparsify-signum",
    "overcomplete": "overcomplete",
    "untrained": "untrained",
    "pca": "pca",
}
"""Name in the tables → name in ``train_peer``; the last two are fitted and not trained, by ours."""
BENCHMARKED = tuple(PEERS)[:5]
"""ViSAEBench has an untrained dictionary, raw units and principal components beside each of its own."""
ROOT = Path(__file__).parents[1]
SMALL_EXPERIMENT: dict[str, Any] = {
    "alpha": 0.3, "draws": None, "directions": 4, "untrained": 1, "shuffles": 1, "calibration": 0,
    "table": {}, "tradeoff": {"doses": [0.25, 0.5, 2, 4], "draws": 1},
    "images": {"discovery": "train", "test": "test", "n_test": 24},
}  # fmt: skip
"""What differs from conf/hypotheses/camvid.yaml: enough to see how selective an edit is, too little to
test it; a smaller alpha asks for more random latents."""


class Step(NamedTuple):
    """A command and what stands when it has ended."""

    name: str
    command: list[str]
    result: str
    """A file below the output folder; may hold wildcards."""


class Runner:
    """Runs steps one after the other, and keeps what each said and took."""

    def __init__(self, out: Path, data: Path) -> None:
        self.out, self.failed = out, list[str]()
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.environ = {
            **os.environ, "PYTHONPATH": os.pathsep.join(paths), "SAEV_REAL_DATA": str(data),
        }  # fmt: skip

    def run(self, step: Step) -> bool:
        """Whether the result stands."""
        if any(self.out.glob(step.result)):
            return True
        log = self.out / "logs" / f"{step.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        with log.open("w") as file:
            done = subprocess.run(
                step.command, env=self.environ, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT
            )
        if done.returncode == 0 and any(self.out.glob(step.result)):
            print(f"{step.name}: {time.perf_counter() - start:.0f} s", flush=True)
            return True
        said = log.read_text(errors="replace").strip()[-300:]
        print(f"{step.name} failed: {said}", flush=True)
        self.failed.append(step.name)
        return False


def verb(name: str, folder: Path, *values: str) -> list[str]:
    """A command of ours, whose run folder is given and which needs no store."""
    return [
        sys.executable, "-m", f"saev.{name}", "logger=none", f"hydra.run.dir={folder}", *values,
    ]  # fmt: skip


class Comparison:
    """Where everything lies, and the steps of each stage."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.out, self.envs = args, args.out.resolve(), args.envs.resolve()
        self.data = args.data.resolve()
        self.runner = Runner(self.out, self.data)

    def sae(self, name: str) -> Path:
        """Our folder of a dictionary."""
        return self.out / name / "sae"

    @property
    def recording(self) -> Path:
        """Of block 10; its id is known when it stands."""
        (found,) = (self.out / "activations").glob("*-layer10-patch-*")
        return found

    def record(self) -> Step:
        """The tars that everyone trains on."""
        values = ["+experiment=vit_tiny", f"paths.outputs={self.out}"]
        result = "activations/*-layer10-patch-*/manifest.json"
        return Step("record", verb("record", self.out / "record", *values), result)

    def head(self) -> Step:
        """Of CamVid's classes, for the edits."""
        folder = self.out / "head"
        values = ["+experiment=seg_camvid", f"paths.outputs={self.out}"]
        return Step("head", verb("train", folder, *values), "head/head/config.json")

    def train(self, name: str) -> Step:
        """By the library's own loop, in its own environment."""
        a, folder, library = self.args, self.out / name, PEERS[name]
        own = ENVIRONMENTS.get(library, OURS) == OURS
        python = sys.executable if own else str(self.envs / ENVIRONMENTS[library] / "bin/python")
        command = [
            python, WORKER, library, self.out / "tokens", folder / "x_hat.npy", "--rate", 0, "--seed", 0,
            "--steps", a.steps, "--batch", a.batch, "--d-sae", a.d_sae, "--k", a.k,
            "--save", folder / "theirs", "--took", folder / "trained.json",
        ]  # fmt: skip
        return Step(f"train-{name}", [str(part) for part in command], f"{name}/trained.json")

    def convert(self, name: str) -> Step:
        """Their folder → ours, for raw activations."""
        values = [
            f"sae={self.out / name / 'theirs'}", f"out={self.sae(name)}", "overwrite=true",
            f"recording={self.recording}", "normalized=true",
        ]  # fmt: skip
        command = [sys.executable, "-m", "saev.convert", *values]
        return Step(f"convert-{name}", command, f"{name}/sae/config.json")

    def evaluate(self, names: list[str]) -> Step:
        """One table of all on the same images, concepts of Caltech."""
        first, *others = names
        folder, n = self.out / "evaluate", self.args.n_images
        roots = [self.data / one for one in ("caltech26", "imagenet1000", "coco_seg", "camvid")]
        trained = [f"+baselines.trained.{one}={self.sae(one)}" for one in others]
        values = [
            f"sae={self.sae(first)}", *trained,
            "images=folder", "images.labels=none", "images.val_fraction=0.0", f"images.n_images={n}",
            f"images.roots=[{','.join(map(str, roots))}]", "evaluation.figures=false",
            "images@concept_images=folder", f"concept_images.roots=[{self.data / 'caltech26'}]",
        ]  # fmt: skip
        result = "evaluate/baselines/baselines.csv"
        return Step("evaluate", verb("evaluate", folder, *values), result)

    def describe(self, name: str) -> Step:
        """Every latent, by the classes of Caltech."""
        folder, a = self.out / name / "describe", self.args
        values = [
            f"sae={self.sae(name)}", "images=folder", f"images.roots=[{self.data / 'caltech26'}]",
            "images.val_fraction=0.0", f"atlas.n_images={a.n_described}", "naming.proposers=[vote]",
            f"atlas.n_permutations={a.n_permutations}", "atlas.baseline_images=0",
            "pages.enabled=false",
        ]  # fmt: skip
        command = verb("describe", folder, *values)
        return Step(f"describe-{name}", command, f"{name}/describe/metrics.json")

    def intervene(self, name: str) -> Step:
        """CamVid's classes taken out, one latent each."""
        folder = self.out / name / "intervene"
        values = [
            f"hypothesis={self.out / 'hypothesis.yaml'}", f"sae={self.sae(name)}",
            f"head={self.out / 'head' / 'head'}", "images=segmentation", "images.void_value=11",
            f"images.roots=[{self.data / 'camvid'}]",
        ]  # fmt: skip
        result = f"{name}/intervene/report/mean_tradeoff.csv"
        return Step(f"intervene-{name}", verb("intervene", folder, *values), result)

    def benchmark(self, images: str, names: list[str]) -> Step:
        """The seven numbers of all on one set of images; M6 where the set has another beside it."""
        sets, folder = self.images(), self.out / f"visaebench_{images}"
        root, siblings, other = sets[images]
        saes = ",".join(str(self.sae(name)) for name in names)
        a = self.args
        values = [
            f"saes=[{saes}]", f"names=[{','.join(names)}]", "benchmark=visaebench",
            "images=folder", f"images.roots=[{root}]", f"visaebench.siblings={siblings}",
            f"visaebench.n_images={a.n_benchmark}", f"visaebench.n_bootstrap={a.n_bootstrap}",
            "visaebench.pool_images=64", "visaebench.min_images=20",
        ]  # fmt: skip
        if other is not None:
            values += ["images@transfer_images=folder", f"transfer_images.roots=[{sets[other][0]}]"]
        result = f"visaebench_{images}/visaebench/leaderboard.csv"
        return Step(f"visaebench-{images}", verb("evaluate", folder, *values), result)

    def images(self) -> dict[str, tuple[Path, Path, str | None]]:
        """Name → folder, sibling groups, and the set on which M6 is taken."""
        folder, here = self.out / "images", Path(__file__).parent
        caltech, groups = here / "caltech26_siblings.tsv", here / "imagenet_siblings.tsv"
        return {
            "caltech": (self.data / "caltech26", caltech, "imagenet"),
            "imagenet": (folder / "imagenet_groups", groups, None),
            "caltech_32px": (folder / "caltech26_32px", caltech, None),
        }

    def stages(self) -> Iterator[Step]:
        """All steps in their order; a dictionary that failed before is not asked for again."""
        yield self.record()
        yield self.head()
        tokens = self.out / "tokens"
        if not (tokens / "heldout.npy").is_file():
            tokens.mkdir(parents=True, exist_ok=True)
            write_tokens(self.recording, tokens)
        write_hypothesis(self.out / "hypothesis.yaml")
        for name in self.args.only:
            (self.out / name).mkdir(exist_ok=True)
            yield self.train(name)
            if (self.out / name / "trained.json").is_file():
                yield self.convert(name)
            if (self.out / name / "x_hat.npy").is_file():
                check_import(self.out / name, tokens, self.recording)
        names = [name for name in self.args.only if (self.sae(name) / "config.json").is_file()]
        if names[:1] == [OURS]:  # the tables know the first column by that
            yield self.evaluate(names)
        trained = [name for name in names if name in BENCHMARKED]
        for name in trained:
            yield self.intervene(name)
        made = self.out / "images"
        made.mkdir(exist_ok=True)
        in_groups(self.data / "imagenet1000", made / "imagenet_groups")
        with_few_pixels(self.data / "caltech26", made / "caltech26_32px")
        for images in self.images():
            yield self.benchmark(images, trained)
        for name in names:
            yield self.describe(name)
            yield self.intervene(name)

    def run(self) -> list[str]:
        """Names of the steps that failed."""
        self.out.mkdir(parents=True, exist_ok=True)
        kept = {key: value for key, value in vars(self.args).items() if isinstance(value, int)}
        (self.out / "sizes.json").write_text(json.dumps(kept, indent=2))
        for step in self.stages():
            self.runner.run(step)
        return self.runner.failed


def write_hypothesis(path: Path) -> None:
    """The file of conf/hypotheses with fewer draws."""
    content = yaml.safe_load((HYPOTHESES_DIR / "camvid.yaml").read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump(content | SMALL_EXPERIMENT, sort_keys=False))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("envs", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    data = os.environ.get("SAEV_REAL_DATA", "../shared/data")
    parser.add_argument("--data", type=Path, default=Path(data))
    sizes = {
        "steps": 489, "batch": 2048, "d_sae": 1536, "k": 32, "n_images": 600, "n_described": 260,
        "n_permutations": 100, "n_benchmark": 150, "n_bootstrap": 60,
    }  # fmt: skip
    for name, default in sizes.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    parser.add_argument("--only", nargs="*", choices=PEERS, default=list(PEERS))
    failed = Comparison(parser.parse_args()).run()
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
