"""A choice from what a sweep leaves on disk: members, refusals, cards and pages."""

import csv
import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from saev.defaults import defaults
from saev.errors import UserError
from saev.evaluation.choice.choice import choose, show_choice
from saev.evaluation.choice.front import pick_log_spaced
from saev.evaluation.choice.outcome import ChoiceSettings, aliases
from saev.evaluation.choice.runs import check_comparable, find_sweep, labels, select
from saev.tracking import NoTracking

BACKBONE = {
    "family": "timm", "name": "micro", "weights": {"kind": "file", "source": "w", "sha256": "ab"},
    "spec": {},
}  # fmt: skip


def leave_member(
    sweep: Path, number: int, k: int, variance: float, *, dead: float = 0.0, **changes: object
) -> Path:
    """A run folder as ``saev.train -m model.k=…`` leaves it, as far as a choice reads it."""
    folder = sweep / f"{number}_model.k={k}"
    (folder / ".hydra").mkdir(parents=True)
    (folder / "sae").mkdir()
    config = {
        "backbone": {"name": "micro", "layer": 4}, "tokens": {"which": "patch", "max_norm": 3.0},
        "images": {"_target_": "datamodules.images.ScenesImages", "n_images": 20}, "seed": 0,
        "evaluation": {"n_images": None}, "data": {"batch_size": 256},
        "trainer": {"max_steps": 10}, "model": {"k": k, "optimizer": {"lr": 1e-3}},
    } | changes  # fmt: skip
    OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
    OmegaConf.save(OmegaConf.create(["seed=0", f"model.k={k}"]), folder / ".hydra/overrides.yaml")
    metrics = {
        "val/l0": k, "val/explained_variance": variance, "val/dead_fraction": dead,
        "val/dense_fraction": 0.01, "val/nmse": 0.1, "fidelity/kl_recovered": 0.9,
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(metrics))
    sae = {
        "backbone": BACKBONE, "layer": 4, "tokens": {"which": "patch"}, "activation": "topk", "k": k,
        "d_model": 8, "d_sae": 32, "max_norm": 5.0, "manifest_id": "m", "images": {"n": "<20>"},
        "manifest_sha256": "cd", "recipe": {"decoder": {"kind": "UnitAtoms"}, "d_sae": None},
    }  # fmt: skip
    (folder / "sae" / "config.json").write_text(json.dumps(sae))
    return folder


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    folder = tmp_path / "sweep"
    for number, (k, variance) in enumerate([(4, 0.5), (32, 0.8), (8, 0.6), (16, 0.55), (2, -0.1)]):
        leave_member(folder, number, k, variance)
    return folder


def settings(**changes: object) -> ChoiceSettings:
    return ChoiceSettings(**{**defaults("evaluate", "choice"), **changes})


def test_files_of_a_choice(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = sweep / "7_model.k=3"
    (broken / ".hydra").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(["seed=0", "model.k=3"]), broken / ".hydra/overrides.yaml")
    (broken / "config.yaml").write_text("seed: 0\n")
    choice = choose(str(sweep), settings(n_picks=2), tmp_path, NoTracking())
    assert [choice.members[pick.index].label for pick in choice.picks] == [
        "model.k=4",
        "model.k=32",
    ]
    folder = tmp_path / "choice"
    lines = (folder / "members.csv").read_text().splitlines()
    rows = {row["member"]: row for row in csv.DictReader(lines)}
    assert {name for name, row in rows.items() if row["on_front"] == "True"} == {
        "model.k=4", "model.k=8", "model.k=32"
    }  # fmt: skip
    assert rows["model.k=16"]["off_front"] == "model.k=8 is better"
    assert rows["model.k=2"]["off_front"] == "it explains no more than the mean activation"
    assert (folder / "pareto.png").stat().st_size > 10_000
    page = (folder / "index.html").read_text()
    for text in ("Choosing among 5 dictionaries", "picks/2/README.md", "it left no metrics.json"):
        assert text in page
    assert "://" not in page
    assert "small range of L0" not in page
    card = (folder / "picks" / "1" / "README.md").read_text()
    assert '"n": "<20>"' in card  # Markdown, not HTML
    assert "10 steps of 256 tokens, learning rate 0.001, seed 0" in card
    assert "| `decoder.kind` | UnitAtoms |" in card and "`d_sae`" not in card
    found = json.loads((folder / "picks.json").read_text())
    assert [pick["registered"] for pick in found] == [None, None]
    show_choice(choice)
    assert "5 members, 3 on the Pareto front" in capsys.readouterr().out


def test_a_short_front_is_said_to_be_one(tmp_path: Path) -> None:
    for number, (k, variance) in enumerate([(30, 0.5), (32, 0.8)]):
        leave_member(tmp_path / "sweep", number, k, variance)
    choose(str(tmp_path / "sweep"), settings(), tmp_path, NoTracking())
    page = (tmp_path / "choice" / "index.html").read_text()
    assert "a small range of L0, 30 to 32" in page


def test_members_without_the_store_or_a_result_are_refused(sweep: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere is not a folder"):
        find_sweep("nowhere", NoTracking(), tmp_path)
    for path in sweep.glob("*/metrics.json"):
        path.unlink()
    with pytest.raises(UserError, match=r"no finished member.*model\.k=8: it left no metrics"):
        find_sweep(str(sweep), NoTracking(), tmp_path)


@pytest.mark.parametrize(
    ("section", "value", "words"),
    [
        ("images", {"n_images": 40}, r"images\.n_images is 20 and 40"),
        ("backbone", {"name": "micro", "layer": 2}, r"backbone\.layer is 4 and 2"),
        ("tokens", {"which": "patch", "max_norm": None}, r"tokens\.max_norm is 3\.0 and None"),
        ("evaluation", {"n_images": 5}, r"evaluation\.n_images is None and 5"),
    ],
)
def test_members_scored_on_other_activations_are_refused(
    sweep: Path, tmp_path: Path, section: str, value: dict, words: str
) -> None:
    if section == "images":
        value = {"_target_": "datamodules.images.ScenesImages", **value}
    leave_member(sweep, 8, 6, 0.7, **{section: value})
    members = find_sweep(str(sweep), NoTracking(), tmp_path).members
    with pytest.raises(UserError, match=words):
        check_comparable(members)


def test_a_recording_that_changed_in_between_is_refused(sweep: Path, tmp_path: Path) -> None:
    path = next(sweep.glob("1_*")) / "sae" / "config.json"
    path.write_text(path.read_text().replace('"cd"', '"ce"'))
    with pytest.raises(UserError, match="recordings"):
        check_comparable(find_sweep(str(sweep), NoTracking(), tmp_path).members)


def test_a_part_of_the_members(sweep: Path, tmp_path: Path) -> None:
    leave_member(sweep, 8, 6, 0.7, backbone={"name": "micro", "layer": 2})
    members = find_sweep(str(sweep), NoTracking(), tmp_path).members
    assert [one.label for one in select(members, {"backbone": {"layer": 2}})] == ["model.k=6"]
    check_comparable(select(members, {"backbone": {"layer": 4}}))
    with pytest.raises(UserError, match=r"backbone\.layer=7 leaves no member; there are 2, 4"):
        select(members, {"backbone": {"layer": 7}})
    with pytest.raises(UserError, match=r"no member's config\.yaml has backbone\.depth"):
        select(members, {"backbone": {"depth": 7}})


def test_labels_are_what_differs() -> None:
    assert labels([["a=1", "b=2"], ["a=1", "b=3"]]) == ["b=2", "b=3"]
    assert labels([["a=1"], ["a=1"]]) == ["a=1 #1", "a=1 #2"]
    assert labels([["a=1"]]) == ["a=1"]


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"choice\.n_picks must be at least 1, got 0"):
        settings(n_picks=0)
    with pytest.raises(ValueError, match=r"choice\.model_name"):
        settings(model_name="a/b")


def test_aliases_are_different(sweep: Path, tmp_path: Path) -> None:
    members = find_sweep(str(sweep), NoTracking(), tmp_path).members
    picks = pick_log_spaced([one.point for one in members], [0, 1], 2)
    assert aliases(picks, members) == ["l0-4-ev-50", "l0-32-ev-80"]
    assert aliases([picks[0]] * 2, members) == ["l0-4-ev-50-pick-1", "l0-4-ev-50-pick-2"]


@pytest.mark.parametrize(
    ("file", "text", "why"),
    [
        ("metrics.json", "[1]", "cannot be read"),
        ("metrics.json", "{", "cannot be read"),
        ("metrics.json", '{"val/l0": "abc"}', "val/l0 is 'abc', no number"),
        ("metrics.json", '{"val/l0": NaN}', "val/l0 is nan where a finite number"),
        ("metrics.json", '{"val/l0": null}', "val/l0 is None, no number"),
        ("config.yaml", "- a", "it is ['a'] where key: value pairs belong"),
        ("config.yaml", "[" * 5000, "cannot be read"),
        ("config.yaml", "a: &a [x, x]\nb: [*a, *a]", "cannot be read"),
        ("config.yaml", "a: !!python/object/apply:os.getcwd []", "cannot be read"),
        ("sae/config.json", "{}", "backbone is missing"),
        (
            "sae/config.json",
            '{"backbone": {}, "layer": 1, "tokens": {"which": "patch"}, "activation": "relu", "d_sae": 8}',
            "name is",
        ),
        ("sae/config.json", '{"backbone": {"name": "a"}, "layer": 1}', "tokens is missing"),
        ("sae/config.json", "[]", "cannot be read"),
    ],
)
def test_one_bad_member_is_left_out(
    sweep: Path, tmp_path: Path, file: str, text: str, why: str
) -> None:
    next(sweep.glob("1_*")).joinpath(file).write_text(text)
    found = find_sweep(str(sweep), NoTracking(), tmp_path)
    assert [reason for reason in found.left_out.values() if why in reason], found.left_out
    assert len(found.members) == 4
    assert choose(str(sweep), settings(), tmp_path, NoTracking()).picks


def test_nothing_in_a_members_config_is_interpolated(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    path = next(sweep.glob("1_*")) / "config.yaml"
    path.write_text(path.read_text() + "note: ${oc.env:SECRET}\n")
    (path.parent / ".hydra").mkdir(exist_ok=True)
    (path.parent / ".hydra" / "overrides.yaml").write_text("- a=${oc.env:SECRET}\n")
    found = find_sweep(str(sweep), NoTracking(), tmp_path)
    assert not [one for one in found.members if "hunter2" in one.label]
    with pytest.raises(UserError, match="there are") as error:
        select(found.members, {"note": "x"})
    assert "hunter2" not in str(error.value)
