"""Hypothesis files: what they may say, and that their hash is of what they say."""

import pytest

from saev.defaults import names
from saev.errors import UserError
from saev.intervention.hypothesis import Hypothesis, read_hypothesis, refuse_overlap

NAN = float("nan")
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
        ({"edit": {"kind": "set", "scale": NAN}}, "edit.scale is nan"),
        ({"edit": {"kind": "set", "scale": "x"}}, "edit.scale is 'x'"),
        ({"edit": {"kind": "set"}}, "no amount"),
        ({"edit": {"kind": "set", "scale": 1, "much": 2}}, "'much' is none of its keys"),
        ({"edit": "x"}, "edit is 'x'"),
        ({"edit": {"kind": "set", "scale": 1, "where": {"patches": "x"}}}, "where.patches is 'x'"),
        ({"edit": {"kind": "set", "scale": 1, "where": {"fires": -1}}}, "where.fires is -1"),
        ({"doses": [NAN, 1, 2]}, "doses[0] is nan"),
        ({"doses": [1e300]}, "doses[0] is 1e+300"),
        ({"doses": 1}, "doses is 1"),
        ({"smallest_effect": NAN}, "smallest_effect is nan"),
        ({"smallest_effect": -1}, "smallest_effect is -1"),
        ({"max_ratio": float("inf")}, "max_ratio is inf"),
        ({"alpha": True}, "alpha is True"),
        ({"images": {"n_test": -1}}, "images.n_test is -1"),
        ({"images": {"test": 5}}, "images.test is 5"),
        ({"support": {"n_test_units": "x"}}, "support.n_test_units is 'x'"),
        ({"support": {"purity": NAN}}, "support.purity is nan"),
        ({"table": {"scales": [float("inf")]}}, "table.scales[0] is inf"),
        ({"table": {"n_latents": [0]}}, "table.n_latents[0] is 0"),
        ({"concept": 5}, "concept is 5"),
        ({"concept": []}, "concept is []"),
        ({"concept": [["a"]]}, "concept[0] is ['a']"),
        ({"latents": {"Sky": "abc"}}, "latents.Sky is 'abc'"),
        ({"latents": [-1]}, "latents[0] is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": "x"}, "seed is 'x'"),
        ({"layer": "x"}, "layer is 'x'"),
        ({"tokens": 5}, "tokens is 5"),
        ({"draws": 0.5}, "draws is 0.5"),
        ({"shuffles": 10**9}, "shuffles is 1000000000"),
        ({"selector": {"n": 1.5}}, "selector.n is 1.5"),
    ],
)
def test_refused_with_one_sentence_that_names_the_file(changes, words):
    with pytest.raises(UserError) as caught:
        load(**changes)
    text = str(caught.value)
    assert words in text and text.startswith("sky.yaml") and "\n" not in text


@pytest.mark.parametrize(
    "changes", [{"smallest_effect": NAN}, {"doses": (NAN,)}, {"seed": -1}, {"edit": {"scale": NAN}}]
)
def test_what_python_gives_is_checked_as_well(changes):
    with pytest.raises(UserError, match="the hypothesis does not fit"):
        Hypothesis(**changes)


@pytest.mark.parametrize("name", names("hypotheses"))
def test_the_files_of_conf_fit(name: str):
    assert read_hypothesis(name)[0].sha256()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 20_000, "is not YAML"),
        ("{a: " * 2000, "is not YAML"),
        ("a: b: c", "is not YAML"),
        ("!!python/object/apply:os.system [touch ran]", "is not YAML"),
        ("seed: 2020-13-45", "is not YAML"),
        ("seed: 2020-01-02", "seed is datetime.date"),
        ("", "no key: value pairs"),
        ("1: 2", "1 is no key"),
        ("- a", "no key: value pairs"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nlatents: [*b, *b]", "latents[0] is"),
        ("\x00", "is not YAML"),
        ("alpha: " + "9" * 5000, "is not YAML"),
        ("a" * (1 << 24) + "a", "more than 16,777,216 bytes"),
    ],
    ids=range(13),
)
def test_text_that_is_no_hypothesis(tmp_path, text, words):
    (tmp_path / "h.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        read_hypothesis(tmp_path / "h.yaml", concepts="all")
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_overlap():
    refuse_overlap(["a", "b"], ["c"])
    with pytest.raises(UserError, match="2 images"):
        refuse_overlap(["a", "b", "c"], ["b", "c", "d"])
