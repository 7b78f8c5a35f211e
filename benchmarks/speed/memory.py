"""The most that training holds beyond its libraries, against what it cannot do without.

    python -m benchmarks.speed.memory VARIANT 24576x1024

In a process of its own: the peak over some steps, less what the imports took.
"""

import contextlib
import ctypes
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.speed.rows import Row, Shape

N_STEPS = 4


def measure(shape: Shape, names: list[str]) -> list[Row]:
    """A row for each variant: megabytes, and how many times weights + gradients + moments + a batch."""
    needed = 4 * (2 * shape.d * shape.d_sae * 4 + shape.batch * shape.d) / 1e6
    rows = []
    for name in names:
        done = subprocess.run(
            [sys.executable, "-m", __name__, name, f"{shape.d_sae}x{shape.batch}"],
            capture_output=True,
            text=True,
            check=True,
        )
        held = float(done.stdout.split()[-1])
        rows.append(
            Row(
                "memory", name, shape.d, shape.d_sae, shape.k, shape.batch, torch.get_num_threads(),
                held, "MB", "weights_gradients_moments_batch", held / needed,
            )
        )  # fmt: skip
    return rows


def _status(key: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1000
    raise SystemExit("the memory of a process is read from /proc, which this system does not have")


def main() -> None:
    name, shape = sys.argv[1], Shape.parse(sys.argv[2])
    from benchmarks.speed.steps import VARIANTS, activations, prepared, seconds_a_step

    # libraries load more of themselves at their first use
    small = Shape(1024, 64, shape.d)
    seconds_a_step(prepared(VARIANTS[name], small), [activations(64, shape.d, 0)], 1, "32-true")
    with contextlib.suppress(OSError, AttributeError):
        # what is free but kept would be used again, and not be seen
        ctypes.CDLL(None).malloc_trim(0)
    before = _status("VmRSS")
    module = prepared(VARIANTS[name], shape)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    batch = activations(shape.batch, shape.d, 1)
    seconds_a_step(module, [batch], N_STEPS, VARIANTS[name].precision)
    print(_status("VmHWM") - before)


if __name__ == "__main__":
    main()
