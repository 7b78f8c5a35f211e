"""A steered model as one file that runs without this library: torch.export's ``.pt2``, or ``.onnx``.

Suffixes: b images, h w pixels, g patches of the grid.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from saev.backbones import Backbone
from saev.errors import UserError, first_line
from saev.files import appearing_whole
from saev.steering.steered_tap import SteeredTap

log = logging.getLogger(__name__)

TOLERANCE = 1e-3
"""Largest difference to the model itself, as a share of its largest output: other kernels round
differently, and a code at a threshold may fall on its other side, which moves far more."""
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
MOST_BYTES = 1_900_000_000
"""Of weights inside an ``.onnx``: a protobuf ends at 2 GB, and larger ones lie beside it."""
Outputs = dict[str, Tensor]


class Traced(nn.Module):
    """The forward pass as exporters take it: tensors in, a dictionary of tensors out."""

    def __init__(self, backbone: Backbone, taps: Sequence[SteeredTap]) -> None:
        super().__init__()
        self.backbone, self.taps = backbone, nn.ModuleList(taps)
        kinds = {edit.where.kind for tap in taps for edit in tap.edits}
        self.takes_mask = bool(kinds & {"mask", "off_mask"})

    def forward(
        self, images: Float[Tensor, "b 3 h w"], mask: Bool[Tensor, "b g"] | None = None
    ) -> Outputs:
        edits = {}
        for tap in self.taps:
            assert isinstance(tap, SteeredTap)
            edits[tap.layer] = partial(tap.edit(), mask=tap.mask_of(mask))
        found = self.backbone(images, edits)._asdict()
        return {name: tensor for name, tensor in found.items() if tensor is not None}


def export_steered(
    backbone: Backbone, taps: Sequence[SteeredTap], path: Path, images: Float[Tensor, "b 3 h w"]
) -> Path:
    """Writes the file after what it will compute on ``images`` has been compared with the model.

    Raises:
        UserError: another ending, a missing package, a model or an edit that cannot be traced, or
            outputs that differ.
    """
    makers: dict[str, Callable[[Traced, tuple[Tensor, ...], Path], Callable[..., Outputs]]]
    makers = {".pt2": _make_pt2, ".onnx": _make_onnx}
    if path.suffix not in makers:
        raise UserError(f"{path} must end in {' or '.join(makers)}; give another name")
    if path.suffix == ".onnx":
        _require_onnx()
    traced = Traced(backbone, taps).eval()
    inputs = [images]
    if traced.takes_mask:
        chosen = torch.arange(len(images) * backbone.grid[0] * backbone.grid[1]) % 2 == 0
        inputs.append(chosen.view(len(images), -1).to(images.device))
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.no_grad(), appearing_whole(path) as temporary, _quiet():
        try:
            # a batch of one would be taken for a constant
            example = tuple(torch.cat([one[:1], one[:1]]) for one in inputs)
            run = makers[path.suffix](traced, example, temporary)
        except UserError:
            raise
        except Exception as error:  # of exporters, which share no base
            raise UserError(
                f"{backbone.name} with these edits cannot be written as {path.suffix} "
                f"({type(error).__name__}: {first_line(error)}); use {_other(path.suffix)}, or save "
                "the steered model and load it with saev"
            ) from error
        for some in ([one[:1] for one in inputs], inputs):
            _compare(traced(*some), run(*some), path)
    return path


def _compare(expected: Outputs, found: Outputs, path: Path) -> None:
    for name, value in expected.items():
        largest = max(float(value.abs().max()), 1e-12)
        apart = float((value - found[name].to(value)).abs().max()) / largest
        if not apart <= TOLERANCE:
            raise UserError(
                f"{path} would not be the model: {name} differ by {apart:.2g} of the largest, more than "
                f"{TOLERANCE:g}, on the images compared; use {_other(path.suffix)}, or give other images="
            )
        log.info("%s: %s differ by %.1g of the largest", path.name, name, apart)


def _other(suffix: str) -> str:
    return ".onnx" if suffix == ".pt2" else ".pt2"


def _make_pt2(traced: Traced, example: tuple[Tensor, ...], path: Path) -> Callable[..., Outputs]:
    batch = torch.export.Dim("batch", min=1)
    shapes = tuple({0: batch} for _ in example)
    program = torch.export.export(traced, example, dynamic_shapes=shapes, strict=False)
    with path.open("wb") as file:
        torch.export.save(program, file)
    with path.open("rb") as file:
        return torch.export.load(file).module()


def _make_onnx(traced: Traced, example: tuple[Tensor, ...], path: Path) -> Callable[..., Outputs]:
    import onnxruntime  # pyright: ignore[reportMissingImports]

    names = ["images", "mask"][: len(example)]
    outputs = list(traced(*example))
    n_bytes = sum(t.nbytes for t in (*traced.parameters(), *traced.buffers()))
    if n_bytes > MOST_BYTES:
        raise UserError(f"its weights have {n_bytes:,} bytes, more than one .onnx holds")
    program = torch.onnx.export(
        traced, example, dynamo=True, verbose=False, input_names=names, output_names=outputs,
        dynamic_shapes=tuple({0: torch.export.Dim("batch", min=1)} for _ in example),
    )  # fmt: skip
    assert program is not None
    program.save(str(path), external_data=False)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(*given: Tensor) -> Outputs:
        feed: dict[str, Any] = {k: v.cpu().numpy() for k, v in zip(names, given, strict=True)}
        found = session.run(outputs, feed)
        return {k: torch.from_numpy(v) for k, v in zip(outputs, found, strict=True)}

    return run


def _require_onnx() -> None:
    missing = [name for name in ONNX_PACKAGES if find_spec(name) is None]
    if missing:
        raise UserError(
            f"an .onnx needs {', '.join(missing)}, not installed: pip install 'saev-lightning[onnx]', or "
            "write a .pt2"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' notes on themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
