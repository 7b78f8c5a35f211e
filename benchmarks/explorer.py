"""How long the explorer takes to answer, and what eight users at once do to each other's answers.

    python -m benchmarks.explorer sae=DIR                          medians after the load
    python -m benchmarks.explorer sae=DIR head=DIR --seconds 300   then eight users for five minutes

Times are of the wall, medians of 40 with everything on the screen already asked for once but the latent
that is edited. Every answer of a user is compared with the one that was computed alone, and the resident
memory is read ten times on the way.
"""

from __future__ import annotations

import argparse
import io
import itertools
import os
import random
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from saev.exploration.explorer import Explorer

N_TIMES, N_USERS, N_QUESTIONS = 40, 8, 48


def resident_mb() -> float:
    """Memory of this process in RAM."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def median_ms(ask: Callable[[int], Any]) -> str:
    """Median and slowest of ``N_TIMES`` questions."""
    taken = []
    for number in range(N_TIMES):
        began = time.perf_counter()
        ask(number)
        taken.append(1000 * (time.perf_counter() - began))
    return f"median {statistics.median(taken):7.1f} ms, slowest {max(taken):7.1f} ms"


def questions(explorer: Explorer, rng: random.Random) -> list[tuple[str, int, dict[str, Any], int]]:
    """Image, patch, edit: what a user clicks on."""
    found = []
    for number in range(N_QUESTIONS):
        key = explorer.gallery[number % len(explorer.gallery)].key
        rows = explorer.look(key, None, n=20)
        latent = rng.choice(rows).latent
        edit = rng.choice(
            [{"kind": "set", "scale": -1.0}, {"kind": "add", "scale": 2.0}, {"kind": "ablate"}]
        )
        n_patches = explorer.grid[0] * explorer.grid[1]
        found.append((key, rng.randrange(n_patches), {**edit, "latents": [latent]}, latent))
    return found


def answer(explorer: Explorer, asked: tuple[str, int, dict[str, Any], int]) -> tuple[Any, ...]:
    """Everything that a click and an edit bring, as plain values."""
    key, patch, edit, latent = asked
    rows = explorer.look(key, [patch])
    heat = explorer.heatmap(key, latent)
    outcome = explorer.edit(key, [edit])
    arms = {name: arm.all_probabilities for name, arm in outcome.arms.items()}
    return [(r.latent, r.activation) for r in rows], heat, outcome.target, outcome.change, arms


def same(one: tuple[Any, ...], two: tuple[Any, ...]) -> bool:
    """To a rounding error."""
    if [r[0] for r in one[0]] != [r[0] for r in two[0]] or one[2] != two[2]:
        return False
    pairs = [(one[1], two[1]), ([r[1] for r in one[0]], [r[1] for r in two[0]])]
    pairs += [(one[3][name], two[3][name]) for name in one[3]]
    pairs += [(one[4][name], two[4][name]) for name in one[4] if one[4][name] is not None]
    return all(np.allclose(a, b, atol=1e-5, equal_nan=True) for a, b in pairs)


def noise_png(rng: np.random.Generator) -> bytes:
    """A picture that nobody has uploaded before."""
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (240, 320, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def many_users(explorer: Explorer, seconds: float) -> None:
    """Eight threads that ask, and now and then upload; prints what was mixed and what memory did."""
    asked = questions(explorer, random.Random(1))
    alone = [answer(explorer, one) for one in asked]
    ends, counts, wrong = time.monotonic() + seconds, [0] * N_USERS, []

    def user(number: int) -> None:
        rng, pixels = random.Random(number), np.random.default_rng(number)
        while time.monotonic() < ends:
            which = rng.randrange(len(asked))
            if not same(answer(explorer, asked[which]), alone[which]):
                wrong.append(which)
            if counts[number] % 10 == 9:
                explorer.look(explorer.add_image(noise_png(pixels)), None)
            counts[number] += 1

    threads = [threading.Thread(target=user, args=(number,)) for number in range(N_USERS)]
    for thread in threads:
        thread.start()
    for tenth in itertools.count(1):
        if not any(thread.is_alive() for thread in threads):
            break
        print(f"  memory {resident_mb():,.0f} MB, {sum(counts):,} answers", flush=True)
        time.sleep(max(min(seconds / 10, ends - time.monotonic()), 1.0))
        assert tenth < 10_000
    print(
        f"{N_USERS} users for {seconds:.0f} s: {sum(counts):,} clicks with an edit each, "
        f"{len(wrong)} answers other than alone; memory {resident_mb():,.0f} MB"
    )
    if wrong:
        raise SystemExit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("settings", nargs="*", help="sae=DIR head=DIR images=NAME")
    parser.add_argument("--seconds", type=float, default=0.0, help="of eight users")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    settings = dict(setting.split("=", 1) for setting in given.settings)
    began = time.perf_counter()
    explorer = Explorer.open(device="cpu", **settings)
    print(f"opened in {time.perf_counter() - began:.1f} s; memory {resident_mb():,.0f} MB")
    keys = [one.key for one in explorer.gallery]
    n_patches = explorer.grid[0] * explorer.grid[1]
    latents = {key: [row.latent for row in explorer.look(key, None, n=N_TIMES)] for key in keys}

    def edit(number: int, **amount: Any) -> None:
        key = keys[number % len(keys)]
        latent = latents[key][number % len(latents[key])]
        explorer.edit(key, [{**amount, "latents": [latent]}])

    edit(0, kind="set", scale=-1.0)
    fresh = np.random.default_rng(0)
    print("a click         ", median_ms(lambda i: explorer.look(keys[0], [i % n_patches])))
    print("a heat-map      ", median_ms(lambda i: explorer.heatmap(keys[0], i)))
    print(
        "a new picture   ",
        median_ms(lambda _: explorer.look(explorer.add_image(noise_png(fresh)), None)),
    )
    print("an edit (set)   ", median_ms(lambda i: edit(i, kind="set", scale=-1.0)))
    print("an edit (ablate)", median_ms(lambda i: edit(i, kind="ablate")))
    if given.seconds:
        many_users(explorer, given.seconds)


if __name__ == "__main__":
    main()
