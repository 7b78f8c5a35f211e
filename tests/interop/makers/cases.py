"""A case on disk, and the odd numbers that all makers fill their dictionaries with.

A case is a folder: ``saved/`` as the library writes it, ``expected.safetensors`` with the library's
own codes and reconstruction of fixed inputs, ``case.json`` with what is odd about it.
"""

import json
import shutil
import sys
import zlib
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

N_INPUTS, D, M, K = 12, 8, 16, 3
"""Vectors, their width, latents, and the active ones of each vector."""


def seeded(name: str) -> torch.Generator:
    """Numbers that depend on a name and on nothing else."""
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))


def inputs(n: int = N_INPUTS, d: int = D) -> Tensor:
    """(n, d) vectors around 2, each dimension with a spread of its own; the same for every case.

    The first is short and nearly constant: where an epsilon stands makes a difference there.
    """
    source = seeded("inputs")
    spread = torch.exp(0.6 * torch.randn(d, generator=source))
    noise = torch.randn(n, d, generator=source)
    x = 2.0 + spread * noise
    x[0] = 0.05 + 0.01 * noise[0]
    return x


def whole_inputs(n: int = N_INPUTS, d: int = D) -> Tensor:
    """Whole numbers: with whole weights every pre-activation is exact, and some meet a threshold."""
    return inputs(n, d).round()


def matrix(source: torch.Generator, rows: int, columns: int, scale: float = 0.5) -> Tensor:
    """Normal entries, and rows of unequal lengths."""
    lengths = torch.exp(0.5 * torch.randn(rows, 1, generator=source))
    return scale * lengths * torch.randn(rows, columns, generator=source)


def whole(source: torch.Generator, *shape: int, low: int = -1, high: int = 2) -> Tensor:
    """Whole numbers from low up to high, without high."""
    return torch.randint(low, high, shape, generator=source).float()


def fill(module: nn.Module, name: str) -> None:
    """Every parameter of a module anew: matrices with unequal rows, vectors from N(0, 1)."""
    source = seeded(name)
    with torch.no_grad():
        for _, one in sorted(module.named_parameters()):
            odd = (
                matrix(source, *one.shape)
                if one.ndim == 2
                else torch.randn(one.shape, generator=source)
            )
            one.copy_(odd)


def fill_whole(module: nn.Module, name: str) -> None:
    """Every parameter of a module anew, all of them small whole numbers."""
    source = seeded(name)
    with torch.no_grad():
        for _, one in sorted(module.named_parameters()):
            one.copy_(whole(source, *one.shape))


def few_positive(pre: Tensor, k: int = K) -> None:
    """Checks that some vectors have fewer than k positive pre-activations, and others enough."""
    counts = (pre > 0).sum(dim=-1)
    assert (counts < k).any() and (counts > 0).any() and (counts >= k).any(), counts


class Writer:
    """Writes cases below a folder, each from an empty one."""

    def __init__(self, out: Path, library: str, distribution: str | None = None) -> None:
        self.out, self.library = out, library
        self.version = version(distribution) if distribution else "as published"

    def saved(self, name: str) -> Path:
        """The empty folder that the library writes the case into."""
        folder = self.out / name
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "saved").mkdir(parents=True)
        return folder / "saved"

    def write(
        self,
        name: str,
        architecture: str,
        note: str,
        x: Tensor,
        z: Tensor,
        x_hat: Tensor,
        refuse: str | None = None,
        **more: Tensor,
    ) -> None:
        """The inputs, what the library made of them, and a sentence about it."""
        assert (self.out / name / "saved").is_dir(), f"{name}: nothing saved"
        tensors = {"x": x, "z": z, "x_hat": x_hat, **more}
        flat = {
            key: one.detach().float().reshape(-1, one.shape[-1]).contiguous().clone()
            for key, one in tensors.items()
        }
        assert all(one.isfinite().all() for one in flat.values()), name
        assert flat["z"].count_nonzero() > 0, f"{name}: no code at all"
        save_file(flat, self.out / name / "expected.safetensors")
        about = {
            "library": self.library,
            "version": self.version,
            "architecture": architecture,
            "note": note,
            "refuse": refuse,
        }
        text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
        (self.out / name / "case.json").write_text(text, encoding="utf-8")
        per_vector = flat["z"].count_nonzero(dim=-1)
        print(f"{name}: {int(per_vector.min())} to {int(per_vector.max())} of {flat['z'].shape[1]}")


def run(makers: Sequence[Callable[[Path], None]]) -> None:
    """Each maker on the folder that the command line names."""
    torch.set_num_threads(1)
    with torch.no_grad():
        for maker in makers:
            maker(Path(sys.argv[1]))
