"""Only concepts that could be chosen for and tested are shown with a latent."""

import pandas as pd

from saev.atlas.pages.concepts import _scorable


def test_concepts_without_examples_are_named_and_left_out() -> None:
    counts = {"sky": (5, 2, 4), "frisbee": (5, 2, 0), "skis": (0, 1, 3), "rare": (3, 0, 2)}
    rows = [
        {"latent": latent, "source": "coco", "kind": "mask", "concept": concept, "split": split,
         "n_positive": n}
        for concept, numbers in counts.items()
        for latent in (0, 1)
        for split, n in zip(("discovery", "calibration", "test"), numbers, strict=True)
    ]  # fmt: skip
    tests, unseen = _scorable(pd.DataFrame(rows))
    assert tests["concept"].tolist() == ["sky", "sky", "rare", "rare"]
    assert set(tests["split"]) == {"test"}
    assert unseen == {("coco", "mask"): ["frisbee", "skis"]}


def test_no_concepts_at_all() -> None:
    columns = ["latent", "concept", "source", "kind", "split"]  # as saev.atlas.tables leaves it
    tests, unseen = _scorable(pd.DataFrame(columns=columns))
    assert tests.empty and unseen == {}
