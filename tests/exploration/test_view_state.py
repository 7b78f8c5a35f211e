"""A state comes back from its link and its JSON, and nothing else passes."""

import base64
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saev.errors import UserError
from saev.exploration.view_state import MOST_LINK, MOST_STATE, SORTS, ViewState

EDIT = {"kind": "set", "latents": [17], "scale": -1.0}
latents = st.lists(st.integers(0, 10**6), min_size=1, max_size=3, unique=True)
amounts = st.integers(-200, 200).map(lambda tenths: tenths / 10)
words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
edits = st.one_of(
    st.builds(lambda k: {"kind": "ablate", "latents": k}, latents),
    st.builds(lambda k, s: {"kind": "set", "latents": k, "scale": s, "unit": "code"}, latents, amounts),
    st.builds(lambda k, f: {"kind": "scale", "latents": k, "factor": f, "where": "mask"}, latents, amounts),
    st.builds(lambda k, p: {"kind": "add", "latents": k, "scale": 1.0, "where": {"patches": [p]}},
              latents, st.integers(0, 195)),
)  # fmt: skip
states = st.fixed_dictionaries(
    {
        "key": st.none() | st.text("0123456789abcdef", min_size=16, max_size=16),
        "patches": st.lists(st.integers(0, 195), min_size=1, max_size=20).map(tuple),
        "latent": st.none() | st.integers(0, 10**6),
        "edits": st.lists(edits, max_size=4).map(tuple),
        "where": st.sampled_from(["all", "patches"]),
        "sort": st.sampled_from(SORTS),
        "classes": st.lists(words, max_size=3).map(tuple),
        "target": st.none() | st.just("colour/blue"),
    }
)


def packed(content: object) -> str:
    data = zlib.compress(json.dumps(content).encode())
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@given(states)
def test_a_state_comes_back_from_its_link_and_its_json(content: dict) -> None:
    state = ViewState(**content)
    link = state.to_link()
    assert set(link) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    assert len(link) <= MOST_LINK
    assert ViewState.from_link(link) == state
    assert ViewState.from_json(state.to_json()) == state


@given(
    st.text(max_size=300)
    | st.binary(max_size=200).map(lambda b: base64.urlsafe_b64encode(b).decode())
)
def test_other_texts_are_refused_in_a_sentence(text: str) -> None:
    try:
        ViewState.from_link(text)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert text == ViewState.from_link(text).to_link()


@pytest.mark.parametrize(
    "content",
    [
        {"key": "/etc/passwd"},
        {"key": "../../../../etc/pa"},
        {"key": "0123456789abcdeF"},
        {"image": "/etc/passwd"},
        {"key": ["0123456789abcdef"]},
        {"patches": [-1]},
        {"patches": [1.5]},
        {"patches": "all"},
        {"latent": True},
        {"sort": "name"},
        {"where": "patches"},
        {"edits": [{"kind": "swap", "latents": [1], "source": "/tmp/x.pt"}]},
        {"edits": [{"kind": "set", "latents": [1], "scale": 1e9}]},
        {"edits": [{"kind": "set", "latents": [1]}]},
        {"edits": [{"kind": "clamp", "latents": [1], "low": 2, "high": 1}]},
        {"edits": [{"kind": "set", "latents": [1, 1], "scale": 1}]},
        {"edits": [{"kind": "set", "latents": [], "scale": 1}]},
        {"edits": [EDIT] * 33},
        {"classes": ["x"] * 101},
        {"classes": ["x" * 201]},
        [],
    ],
)
def test_values_outside_what_is_allowed_are_refused(content: object) -> None:
    with pytest.raises(UserError):
        ViewState.from_link(packed(content))
    with pytest.raises(UserError):
        ViewState.from_json(json.dumps(content))


def test_a_link_cannot_unpack_into_much_memory() -> None:
    bomb = base64.urlsafe_b64encode(zlib.compress(b" " * (MOST_STATE * 50), 9)).decode()
    assert len(bomb) < MOST_LINK
    with pytest.raises(UserError, match="too much"):
        ViewState.from_link(bomb)
    with pytest.raises(UserError, match="characters"):
        ViewState.from_link("A" * (MOST_LINK + 1))
    with pytest.raises(UserError, match="bytes"):
        ViewState.from_json(" " * (MOST_STATE + 1))


def test_a_state_too_large_for_a_link_is_kept_as_json() -> None:
    classes = tuple(f"{number * 7919 % 1000003:x}" * 30 for number in range(100))
    state = ViewState(classes=tuple(name[:200] for name in classes))
    assert ViewState.from_json(state.to_json()) == state
    scattered = ViewState(patches=tuple((k * k * 31 + 7 * k) % 16384 for k in range(9000)))
    with pytest.raises(UserError, match="save it as JSON"):
        scattered.to_link()
