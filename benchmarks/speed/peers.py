"""Other libraries' own training steps, each in an environment of its own, in the same rounds.

``make bench-peers`` sets the environments up, from the pins in ``benchmarks/peer_workers``.
"""

import json
import subprocess
import sys
import venv
from pathlib import Path

import torch

from benchmarks.speed.rows import Shape

WORKERS = Path(__file__).parents[1] / "peer_workers"
LIBRARIES = {
    "sae-lens": "saelens",
    "sparsify": "sparsify",
    "dictionary-learning": "dictlearn",
    "overcomplete": "overcomplete",
}
"""Name in the table → environment, and the requirements file of that name."""


class Worker:
    """A process that makes so many steps when it is asked to, and stands still otherwise."""

    def __init__(self, python: Path, library: str, shape: Shape, n_steps: int) -> None:
        self.library, self.n_steps = library, n_steps
        sizes = [shape.d, shape.d_sae, shape.k, shape.batch, torch.get_num_threads()]
        self.process = subprocess.Popen(
            [str(python), str(WORKERS / "step_peer.py"), library, *map(str, sizes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ask(self, n_steps: int) -> list[float]:
        """Seconds of each of n steps; raises RuntimeError where the process has ended."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(f"{n_steps}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        line = self.process.stdout.readline()
        if not line:
            _, said = self.process.communicate()
            raise RuntimeError(f"{self.library}: {said.strip()[-300:]}")
        return json.loads(line)

    def seconds(self) -> float:
        """The median of some steps."""
        found = sorted(self.ask(self.n_steps))
        return found[len(found) // 2]

    def close(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.communicate()


class Peers:
    """The libraries that have an environment below a folder."""

    def __init__(self, folder: Path, n_steps: int) -> None:
        self.folder, self.n_steps = folder, n_steps
        self._workers: dict[str, Worker] = {}

    def started(self, shape: Shape) -> dict[str, Worker]:
        """A worker for each that can make a step of this shape; the others are named, and left out."""
        for library, name in LIBRARIES.items():
            python = self.folder / name / "bin" / "python"
            if not python.is_file():
                print(f"{library}: no environment in {self.folder / name}; make bench-peers")
                continue
            worker = Worker(python, library, shape, self.n_steps)
            try:
                worker.ask(1)
            except RuntimeError as error:
                print(error)
                worker.close()
                continue
            self._workers[library] = worker
        return self._workers

    def close(self) -> None:
        """Ends all of them."""
        for worker in self._workers.values():
            worker.close()
        self._workers = {}


def set_up(folder: Path) -> None:
    """An environment for each library, as its requirements file says, unless it is there."""
    for library, name in LIBRARIES.items():
        done, target = folder / name / ".installed", folder / name
        requirements = WORKERS / f"requirements-{name}.txt"
        if done.is_file() and done.read_text() == requirements.read_text():
            continue
        print(f"installing {library} into {target}", flush=True)
        venv.create(target, with_pip=True, clear=True)
        pip = [str(target / "bin" / "python"), "-m", "pip", "install", "--quiet",
               "--disable-pip-version-check"]  # fmt: skip
        torches = [one for one in requirements.read_text().split() if one.startswith("torch")]
        subprocess.run([*pip, *torches], check=True)  # with the libraries that its build needs
        # the other pins are complete: resolving would add what none of this code uses
        subprocess.run([*pip, "--no-deps", "-r", str(requirements)], check=True)
        done.write_text(requirements.read_text())


if __name__ == "__main__":
    set_up(Path(sys.argv[1]))
