"""Checkpoints compared."""

from typing import Any

import torch


def differences(first: Any, second: Any, where: str = "") -> list[str]:
    """Where two checkpoints differ by a single bit; times of day and folders are not looked at."""
    if isinstance(first, dict):
        if set(first) != set(second):
            return [f"{where}: {set(first) ^ set(second)}"]
        pairs = [(f"{where}/{key}", first[key], second[key]) for key in first]
        return [d for name, a, b in pairs for d in differences(a, b, name)]
    if isinstance(first, list | tuple):
        pairs = [(f"{where}/{i}", *pair) for i, pair in enumerate(zip(first, second, strict=True))]
        return [d for name, a, b in pairs for d in differences(a, b, name)]
    if isinstance(first, torch.Tensor):
        same = first.dtype == second.dtype and torch.equal(first, second)
    else:
        same = first == second
    return [] if same else [where]
