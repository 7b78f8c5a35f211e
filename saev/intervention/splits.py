"""Which images a controlled experiment chooses on, which it tests on, and whose each one is."""

import numpy as np

from datamodules.images import ImageItem, ImageSource
from saev.errors import UserError
from saev.intervention.arms.runner import TestSet
from saev.intervention.choose.proposals import Proposal
from saev.intervention.hypothesis import HypothesisFile, refuse_overlap
from saev.intervention.readout import Readout


def choose_images(
    file: HypothesisFile, source: ImageSource, readout: Readout
) -> tuple[list[ImageItem], list[ImageItem]]:
    """The discovery and the test images; raises ``UserError`` when one is in both or none is."""
    images = file.images
    found = []
    for name, which, limit in (
        ("discovery", images.discovery, images.n_discovery), ("test", images.test, images.n_test)
    ):  # fmt: skip
        items = _items(source, which, f"images.{name}")
        if readout.per == "image":
            items = _in_turn([item for item in items if item.label is not None])
        found.append(items[:limit])
    discovery, test = found
    refuse_overlap([item.image_id for item in discovery], [item.image_id for item in test])
    for name, items in (("discovery", discovery), ("test", test)):
        if not items:
            raise UserError(
                f"images.{name}={getattr(images, name)} holds no images of {source.name!r}: name a "
                "split that it has"
            )
    return discovery, test


def _items(source: ImageSource, which: str | tuple[str, ...], name: str) -> list[ImageItem]:
    if isinstance(which, str):
        try:
            return source.split(which)
        except ValueError as error:
            raise UserError(f"{name}: {error}") from error
    by_id = {item.image_id: item for item in source.items}
    unknown = [image_id for image_id in which if image_id not in by_id]
    if unknown:
        raise UserError(
            f"{name} names the image {unknown[0]!r}, which {source.name!r} does not have"
        )
    return [by_id[image_id] for image_id in which]


def _in_turn(items: list[ImageItem]) -> list[ImageItem]:
    """One of each class in turn, so that a limit keeps classes in balance."""
    seen: dict[int | None, int] = {}
    places = []
    for item in items:
        places.append(seen.get(item.label, 0))
        seen[item.label] = places[-1] + 1
    return [item for _, item in sorted(zip(places, items, strict=True), key=lambda pair: pair[0])]


def hypothesis_images(
    file: HypothesisFile, readout: Readout, p: Proposal, test: TestSet
) -> np.ndarray:
    """All test images for heads that answer per patch; else the class's and ``n_other`` others."""
    if readout.per == "patch":
        return np.ones(test.n_images, bool)
    own = test.clean.n_base[:, p.column] > 0
    others = np.flatnonzero(~own)[: file.images.n_other]
    own[others] = True
    return own
