"""A checkpoint with pickled objects as plain data: ``python -m saev.interop.unpickle FILE OUT.pt``.

Opening a pickle runs whatever code its maker put into it. This is the only place that does, by hand
and for one file whose origin one trusts; the library whose objects it holds must be installed.
"""

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

USAGE = "usage: python -m saev.interop.unpickle FILE OUT.pt   (runs code that FILE may hold)"


def as_plain(value: Any) -> Any:
    """Tensors, numbers, texts, lists and mappings as they are; an object as its fields; else its text."""
    if isinstance(value, torch.Tensor | str | int | float | bool | None):
        return value
    if isinstance(value, Mapping):
        return {str(key): as_plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set):
        return [as_plain(entry) for entry in value]
    if isinstance(value, torch.nn.Module):
        return dict(value.state_dict())
    if dataclasses.is_dataclass(value) or hasattr(value, "__dict__"):
        return {str(key): as_plain(entry) for key, entry in vars(value).items()}
    return str(value)


def main(arguments: list[str]) -> None:
    """Reads FILE, writes OUT; ends with a sentence where it cannot."""
    if len(arguments) != 2:
        raise SystemExit(USAGE)
    source, target = map(Path, arguments)
    if not source.is_file():
        raise SystemExit(f"{source} does not exist; {USAGE}")
    try:
        content = torch.load(source, map_location="cpu", weights_only=False)
    except Exception as error:  # whatever a foreign class raises
        raise SystemExit(
            f"{source} cannot be opened ({error}); install the library that wrote it"
        ) from error
    torch.save(as_plain(content), target)
    sys.stdout.write(f"{target} holds plain data; sae={target} opens it\n")


if __name__ == "__main__":
    main(sys.argv[1:])
