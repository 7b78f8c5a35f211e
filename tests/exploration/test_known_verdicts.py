"""Rungs of latents from the reports of earlier experiments."""

import json
from pathlib import Path
from typing import Any

import pytest

from saev.errors import UserError
from saev.exploration.known_verdicts import read_rungs, rungs_in_words
from saev.sae import SparseAutoencoder
from saev.sae.weights_digest import weights_sha256


@pytest.fixture(scope="module")
def sae(sae_dir: Path) -> SparseAutoencoder:
    return SparseAutoencoder.from_pretrained(sae_dir)


def report(
    folder: Path, dictionary: str | None, *verdicts: tuple[list[int], dict[str, bool]]
) -> Path:
    folder.mkdir(parents=True)
    named = {} if dictionary is None else {"dictionary": dictionary}
    (folder / "registered.json").write_text(json.dumps({**named, "file": {}}))
    rows = [
        {
            "latents": k,
            "rungs": {name: {"holds": held, "p": 0.1} for name, held in rungs.items()},
            "p": 1,
        }
        for k, rungs in verdicts
    ]
    (folder / "verdict.json").write_text(json.dumps(rows))
    return folder


def test_a_digest_is_of_the_numbers(sae: SparseAutoencoder, tmp_path: Path) -> None:
    own = weights_sha256(sae)
    sae.save_pretrained(tmp_path / "again")
    assert weights_sha256(SparseAutoencoder.from_pretrained(tmp_path / "again")) == own
    other = SparseAutoencoder.from_pretrained(tmp_path / "again")
    other.b_dec.data[0] += 1e-3
    assert weights_sha256(other) != own


def test_the_highest_rung_of_every_experiment_counts(
    sae: SparseAutoencoder, tmp_path: Path
) -> None:
    own = weights_sha256(sae)
    report(
        tmp_path / "a" / "report",
        own,
        ([3], {"effect": True, "learned": False}),
        ([5], {"effect": False}),
    )
    report(
        tmp_path / "b" / "report" / "dictionary_1", own,
        ([3, 4, 6], {"effect": True, "learned": True}), ([7], {"effect": False, "learned": True}),
    )  # fmt: skip
    report(tmp_path / "c", "of another", ([5], {"effect": True}))
    assert read_rungs(tmp_path, sae) == {
        3: "learned (with 2 more)", 4: "learned (with 2 more)", 6: "learned (with 2 more)",
        5: "none", 7: "none",
    }  # fmt: skip
    assert read_rungs(tmp_path / "a", sae) == {3: "effect", 5: "none"}
    assert read_rungs(None, sae) == {}


def test_a_latent_alone_counts_before_others() -> None:
    assert rungs_in_words([([1, 2], "effect"), ([1], "effect")]) == {
        1: "effect",
        2: "effect (with 1 more)",
    }


def test_reports_of_other_dictionaries_are_no_verdict(
    sae: SparseAutoencoder, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"no verdict\.json"):
        read_rungs(tmp_path, sae)
    report(tmp_path / "other", "of another", ([1], {"effect": True}))
    report(tmp_path / "old", None, ([1], {"effect": True}))
    with pytest.raises(UserError, match="none of the 2 reports"):
        read_rungs(tmp_path, sae)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "{}",
        "[1]",
        '[{"latents": [1]}]',
        '[{"latents": ["x"], "rungs": {}}]',
        '[{"latents": [], "rungs": {}}]',
        '[{"latents": [1], "rungs": {"effect": {"holds": 1}}}]',
        '[{"latents": [1], "rungs": {"other": {}}}]',
    ],
)
def test_a_damaged_report_is_one_sentence(
    sae: SparseAutoencoder, tmp_path: Path, content: Any
) -> None:
    folder = report(tmp_path / "one", weights_sha256(sae))
    (folder / "verdict.json").write_text(content)
    with pytest.raises(UserError, match=r"verdict\.json"):
        read_rungs(tmp_path, sae)
