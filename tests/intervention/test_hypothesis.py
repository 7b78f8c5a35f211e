"""Hypothesis files: what they may say, and that their hash is of what they say."""

import pytest

from saev.errors import UserError
from saev.intervention.hypothesis import Hypothesis, refuse_overlap

GOOD = {
    "concept": "Sky",
    "selector": {"by": "f1", "n": 3},
    "edit": {"kind": "set", "scale": -1},
    "images": {"discovery": "train", "test": "test"},
    "doses": [0, -1],
}


def load(**changes) -> Hypothesis:
    return Hypothesis.from_dict({**GOOD, **changes}, "sky.yaml")


def test_the_hash_is_of_the_content():
    one = load()
    assert one.sha256() == Hypothesis.from_dict(dict(reversed(GOOD.items())), "x").sha256()
    assert one.sha256() != load(alpha=0.01).sha256()
    assert one.sha256() != load(concept="Road").sha256()
    assert one.sha256() == load(alpha=0.05).sha256()  # said or left at its default


def test_scale():
    assert load().scale == -1.0
    assert load(edit={"kind": "ablate"}, doses=[]).scale == 0.0
    assert load().at(-2.0) == {"kind": "set", "scale": -2.0}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"metric": "miou"}, "metric is 'miou'"),
        ({"colour": 1}, "unknown key 'colour'"),
        ({"selector": {"by": "luck"}}, "selector.by"),
        ({"selector": {"n": 0}}, "selector.n"),
        ({"selector": 3}, "key: value"),
        ({"edit": {"kind": "swap"}}, "swap"),
        ({"edit": {"kind": "set", "scale": 1.0, "where": "left"}}, "left"),
        ({"edit": {"kind": "ablate"}}, "amount to vary"),
        ({"direction": "sideways"}, "direction"),
        ({"metric": "accuracy", "direction": "increase"}, "accuracy"),
        ({"alpha": 1.5}, "alpha"),
        ({"alpha": "small"}, "alpha"),
        ({"baselines": ["magic"]}, "baselines"),
        ({"match": ["rate"]}, "unknown key 'match'"),
        ({"max_ratio": 1}, "max_ratio is 1"),
        ({"tradeoff": {"doses": [0]}}, "tradeoff.doses"),
        ({"images": {"discovery": ["a", "b"], "test": ["b"]}}, "'b'"),
        ({"directions": 0}, "directions"),
        ({"placebo": -1}, "placebo is -1"),
    ],
)
def test_refused_with_one_sentence_that_names_the_file(changes, words):
    with pytest.raises(UserError) as caught:
        load(**changes)
    text = str(caught.value)
    assert words in text and text.startswith("sky.yaml") and "\n" not in text


def test_overlap():
    refuse_overlap(["a", "b"], ["c"])
    with pytest.raises(UserError, match="2 images"):
        refuse_overlap(["a", "b", "c"], ["b", "c", "d"])
