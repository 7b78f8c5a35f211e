"""A recording of the tiny backbone on tiny images."""

from pathlib import Path

from saev.recording.recorder import record
from saev.recording.request import RecordingRequest
from tests.fakes.backbone import TinyBackbone
from tests.fakes.images import TinyImages


def run(
    out: Path,
    backbone=None,
    source=None,
    layers=(1,),
    batch_size=3,
    max_norm=3.0,
    fabric=None,
    **kw,
) -> dict[int, Path]:
    precision = kw.pop("precision", "auto")
    backbone, source = backbone or TinyBackbone(), source or TinyImages()
    request = RecordingRequest.of(backbone, source, layers, **{"images_per_shard": 5, **kw})
    return record(
        request,
        backbone,
        source,
        out,
        batch_size=batch_size,
        num_workers=0,
        precision=precision,
        max_norm=max_norm,
        fabric=fabric,
        progress=False,
    )
