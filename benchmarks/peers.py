"""Explained variance at equal tokens: our TopK against other libraries, each at several rates.

    python -m benchmarks.peers ACTIVATIONS --envs DIR [--seeds 0 1 2] [--device cuda --jobs 6]

ACTIVATIONS is a recorded folder (``python -m saev.record``); DIR holds a virtual environment for each
other library, named as in ``ENVIRONMENTS``. Every library sees the same normalised tokens of normal
norm; what it makes of the held-out ones is scored here, by one function. The first seed does all
rates, the others the best of them. Results are kept in DIR/peers.jsonl, and what is there is not run
again; a library that fails is named and left out.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from datamodules.activations import Manifest
from datamodules.activations.tar import iter_samples
from saev.sae import SparseAutoencoder

ENVIRONMENTS = {
    "saev": "saev",
    "saelens": "saelens",
    "sparsify-adam": "sparsify",
    "sparsify-signum": "sparsify",
    "dictionary_learning": "dictlearn",
    "overcomplete": "overcomplete",
}
"""``saev`` is the environment of this command."""
OURS = "saev"
AUTO = 0.0
"""In place of a rate: the one of ``conf/model/topk.yaml``."""
RATES = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
N_CHECKED = 8192
"""Held-out tokens on which an import is compared with its library."""
WORKER = Path(__file__).parent / "peer_workers" / "train_peer.py"


def write_tokens(recording: Path, folder: Path, max_norm: float = 3.0) -> None:
    """``train.npy`` and ``heldout.npy``: normalised tokens whose norm is at most so many medians."""
    manifest = Manifest.read(recording)
    statistics = manifest.statistics
    mean = np.asarray(statistics.mean, np.float32)
    for split in ("train", "heldout"):
        parts = []
        for shard in manifest.of_split(split):
            for sample in iter_samples(recording, shard):
                acts = np.asarray(sample.acts, np.float32)
                normal = np.linalg.norm(acts, axis=1) <= max_norm * statistics.median_norm
                parts.append((acts[normal] - mean) * statistics.scale)
        np.save(folder / f"{split}.npy", np.concatenate(parts))


def explained_variance(x: Float[np.ndarray, "n d"], x_hat: Float[np.ndarray, "n d"]) -> float:
    """1 − Σ‖x − x̂‖² / Σ‖x − mean x‖² over the held-out tokens."""
    error = np.square(x - x_hat, dtype=np.float64).sum()
    return float(1 - error / np.square(x - x.mean(0), dtype=np.float64).sum())


def check_import(folder: Path, tokens: Path, recording: Path) -> None:
    """``imported.json``: what the library itself reconstructs of held-out tokens, and what ours makes of
    its file, in explained variance of the normalised tokens and as their distance over their length."""
    out, ours = folder / "imported.json", folder / "sae"
    if out.is_file() or not (ours / "config.json").is_file():
        return
    x_nd = np.load(tokens / "heldout.npy", mmap_mode="r")[:N_CHECKED].astype(np.float32)
    theirs_nd = np.load(folder / "x_hat.npy", mmap_mode="r")[:N_CHECKED].astype(np.float32)
    statistics = Manifest.read(recording).statistics
    mean, scale = np.asarray(statistics.mean, np.float32), statistics.scale
    with torch.no_grad():
        sae = SparseAutoencoder.from_pretrained(ours)
        raw_nd = sae.decode(sae.encode(torch.from_numpy(x_nd / scale + mean))).numpy()
    ours_nd = (raw_nd - mean) * scale
    found = {
        "explained_variance_theirs": explained_variance(x_nd, theirs_nd),
        "explained_variance_ours": explained_variance(x_nd, ours_nd),
        "distance": float(np.linalg.norm(ours_nd - theirs_nd) / np.linalg.norm(theirs_nd)),
    }
    out.write_text(json.dumps(found, indent=2))


class Scores:
    """Explained variance per library, rate and seed; keeps what is known in a file."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.folder = args, args.envs
        self.heldout = np.load(self.folder / "heldout.npy")
        self.kept = self.folder / "peers.jsonl"
        lines = self.kept.read_text().splitlines() if self.kept.is_file() else []
        self.found: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def key(self, library: str, rate: float, seed: int) -> dict[str, Any]:
        a = self.args
        size = {"steps": a.steps, "batch": a.batch, "d_sae": a.d_sae, "k": a.k}
        return {"library": library, "rate": rate, "seed": seed, **size}

    def known(self, library: str, rate: float, seed: int) -> float | None:
        key = self.key(library, rate, seed)
        hits = [one for one in self.found if {name: one.get(name) for name in key} == key]
        return hits[0]["explained_variance"] if hits else None

    def run(self, wanted: list[tuple[str, float, int]]) -> None:
        """Everything of this list that is not known, several at once."""
        rest = [one for one in wanted if self.known(*one) is None]
        with ThreadPoolExecutor(self.args.jobs) as pool:
            for one, score in zip(rest, pool.map(lambda one: self._train(*one), rest), strict=True):
                if score is not None:
                    self.found.append(self.key(*one) | {"explained_variance": score})
                    lines = "".join(json.dumps(each) + "\n" for each in self.found)
                    self.kept.write_text(lines)

    def _train(self, library: str, rate: float, seed: int) -> float | None:
        """By its own trainer, in its own environment; None if that fails."""
        a, out = self.args, self.folder / f"x_hat-{library}-{rate:g}-{seed}.npy"
        env = self.folder / ENVIRONMENTS[library] / "bin" / "python"
        command = [
            env, WORKER, library, self.folder, out, "--rate", rate, "--seed", seed, "--device", a.device,
            "--steps", a.steps, "--batch", a.batch, "--d-sae", a.d_sae, "--k", a.k,
        ]  # fmt: skip
        environ = dict(os.environ)
        if library == OURS:
            command[0] = sys.executable
            known = os.environ.get("PYTHONPATH", "")
            environ["PYTHONPATH"] = f"{Path(__file__).parents[1]}:{known}"
        done = subprocess.run(
            [str(part) for part in command], env=environ, capture_output=True, text=True
        )
        if done.returncode:
            print(f"{library} at {rate:g}, seed {seed}: {done.stderr.strip()[-300:]}", flush=True)
            return None
        x_hat = np.load(out).astype(np.float32)
        out.unlink()
        return explained_variance(self.heldout, x_hat)


def table(scores: Scores, libraries: list[str], rates: list[float], seeds: list[int]) -> str:
    """A row per library: all rates with the first seed, and the best rate with all seeds."""
    head = [f"{rate:g}" for rate in rates]
    lines = [f"| library | {' | '.join(head)} | best, mean of {len(seeds)} seeds |"]
    lines.append("|---" * (len(rates) + 2) + "|")
    for library in libraries:
        at = {rate: scores.known(library, rate, seeds[0]) for rate in [*rates, AUTO]}
        best = best_rate(scores, library, rates, seeds[0])
        if best is None:
            lines.append(f"| {library} |{' |' * len(rates)} failed |")
            continue
        of_seeds = [v for seed in seeds if (v := scores.known(library, best, seed)) is not None]
        spread = f" ± {np.std(of_seeds, ddof=1):.4f}" if len(of_seeds) > 1 else ""
        cells = ["" if at[rate] is None else f"{at[rate]:.4f}" for rate in rates]
        name = "auto" if best == AUTO else f"{best:g}"
        lines.append(
            f"| {library} | {' | '.join(cells)} | {np.mean(of_seeds):.4f}{spread} at {name} |"
        )
    return "\n".join(lines)


def best_rate(scores: Scores, library: str, rates: list[float], seed: int) -> float | None:
    """The default rate for ours, else the best of all with one seed; None if none of them ended."""
    if library == OURS:
        return AUTO
    at = {rate: v for rate in rates if (v := scores.known(library, rate, seed)) is not None}
    return max(at, key=lambda rate: at[rate]) if at else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("activations", type=Path)
    parser.add_argument("--envs", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=977)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--d-sae", type=int, default=3072)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--rates", type=float, nargs="*", default=list(RATES))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--only", nargs="*", choices=ENVIRONMENTS, default=list(ENVIRONMENTS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    if not (args.envs / "heldout.npy").is_file():
        write_tokens(args.activations, args.envs)
    scores, first = Scores(args), args.seeds[0]
    scores.run(
        [(one, rate, first) for one in args.only for rate in [AUTO] * (one == OURS) + args.rates]
    )
    best = {one: best_rate(scores, one, args.rates, first) for one in args.only}
    scores.run(
        [(one, rate, seed) for one, rate in best.items() if rate is not None for seed in args.seeds]
    )
    print(table(scores, args.only, args.rates, args.seeds))


if __name__ == "__main__":
    main()
