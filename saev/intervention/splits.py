"""Discovery and test splits, and the test images of each hypothesis."""

import numpy as np
from jaxtyping import Bool

from datamodules.images import ImageItem, ImageSource
from saev.errors import UserError
from saev.intervention.arms.runner import TestSet
from saev.intervention.choose.proposals import Proposal
from saev.intervention.hypothesis import refuse_overlap
from saev.intervention.setting import Setting
from saev.stats.correction import images_needed


def choose_images(setting: Setting) -> tuple[list[ImageItem], list[ImageItem]]:
    """The discovery and the test images; raises ``UserError`` when one is in both or none is."""
    images, source = setting.file.images, setting.source
    found = []
    for name, which, limit in (
        ("discovery", images.discovery, images.n_discovery), ("test", images.test, images.n_test)
    ):  # fmt: skip
        items = _items(source, which, f"images.{name}")
        if setting.readout.per == "image":
            items = in_turn([item for item in items if item.label is not None])
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


def in_turn(items: list[ImageItem]) -> list[ImageItem]:
    """One of each class in turn, so that a limit keeps classes in balance."""
    seen: dict[int | None, int] = {}
    places = []
    for item in items:
        places.append(seen.get(item.label, 0))
        seen[item.label] = places[-1] + 1
    return [item for _, item in sorted(zip(places, items, strict=True), key=lambda pair: pair[0])]


def hypothesis_images(setting: Setting, p: Proposal, test: TestSet) -> Bool[np.ndarray, " n"]:
    """All test images for heads that answer per patch; else the class's and ``n_other`` others."""
    if setting.readout.per == "patch":
        return np.ones(test.n_images, bool)
    own = test.clean.n_base[:, p.column] > 0
    others = np.flatnonzero(~own)[: setting.file.images.n_other]
    own[others] = True
    return own


def with_support(
    setting: Setting, proposals: list[Proposal], test: TestSet
) -> tuple[list[Proposal], dict[str, str]]:
    """The hypotheses that the test images can speak to; a concept named by hand must be one."""
    file, n_base = setting.file, test.clean.n_base
    needed = images_needed(file.alpha, len(proposals))
    kept, left_out = [], {}
    for p in proposals:
        n_images, n_units = int((n_base[:, p.column] > 0).sum()), int(n_base[:, p.column].sum())
        reason = None
        if n_images < needed:
            reason = (
                f"{n_images} test images show it and {needed} are needed to reach α = {file.alpha} "
                f"over {len(proposals)} hypotheses"
            )
        elif setting.readout.per == "patch" and n_units < file.support.n_test_units:
            reason = f"{n_units} test patches show it and {file.support.n_test_units} are needed"
        if reason is None:
            kept.append(p)
        elif file.concept == "all":
            left_out[p.concept] = reason
        else:
            raise UserError(f"too few images for {p.concept!r}: {reason}; give more test images")
    if not kept:
        raise UserError(
            f"no concept has enough test images: {needed} are needed of each to reach "
            f"α = {file.alpha} over {len(proposals)} hypotheses"
        )
    return kept, left_out
