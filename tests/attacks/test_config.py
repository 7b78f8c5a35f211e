"""Every key of the configuration against values that it cannot have: one sentence, nothing written.

The values stand in ``config_values.py``. One or two of each key go through the real command; all of them,
set in one composed configuration, through the check alone.
"""

import shutil
from itertools import groupby
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from saev.cli.refusals import refuse_choices, refuse_values
from saev.defaults import CONF_DIR
from saev.errors import UserError
from tests.attacks.config_values import ACCEPTED, REFUSED_LATER, cases
from tests.fakes.commands import ALONE, assert_sentence, in_process
from tests.fakes.forked import Outcome, run_forked

Case = tuple[str, str, str]

CASES = cases()
MOST_BYTES = 2e9


def some_of_each(every: list[Case]) -> list[Case]:
    """One value of every third key, two of the others; different ones, so that all sorts are tried."""
    chosen = []
    for number, (_, group) in enumerate(groupby(every, key=lambda case: case[:2])):
        of_key = list(group)
        tried = (number, number + len(of_key) // 2) if number % 3 else (number,)
        chosen += [of_key[one % len(of_key)] for one in tried]
    return chosen


TRIED = some_of_each(CASES)


def attack(line: str, key: str, value: str, folder: Path) -> Outcome:
    verb, *choices = line.split()
    return run_forked([verb, *choices, f"{key}={value}"], folder, timeout=60)


def complaint(outcome: Outcome, key: str = "") -> str:
    """What is wrong with a refusal that is to name ``key``; empty where nothing is."""
    if outcome.status == 0:
        return "accepted"
    if outcome.sentence is None:
        return f"status {outcome.status}: {outcome.stderr[-300:]}"
    if key and len(outcome.stderr.strip().splitlines()) > 1:
        return f"more than a sentence: {outcome.stderr}"
    if key.rpartition(".")[2] not in outcome.sentence:
        return f"the key is not named: {outcome.sentence}"
    return f"{outcome.peak_bytes:,} bytes" if outcome.peak_bytes > MOST_BYTES else ""


def test_enough_is_tried() -> None:
    assert len(TRIED) >= 350 and len(CASES) >= 1900
    assert {case[:2] for case in TRIED} == {case[:2] for case in CASES}


@pytest.mark.parametrize("case", TRIED[:: len(TRIED) // 7], ids=lambda case: f"{case[1]}={case[2]}")
def test_nonsense_is_refused_and_nothing_written(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    line, key, value = case
    said = in_process(*line.split(), f"{key}={value}")
    assert_sentence(said, key.rpartition(".")[2])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.timeout(1800)  # four hundred commands
def test_nonsense_for_every_key_is_refused_and_nothing_written(tmp_path: Path) -> None:
    found = {}
    for case in TRIED:
        wrong = complaint(attack(*case, tmp_path), case[1])
        if wrong := wrong or " ".join(sorted(path.name for path in tmp_path.iterdir())):
            found[case] = wrong
            shutil.rmtree(tmp_path)
            tmp_path.mkdir()
    assert not found


@pytest.mark.slow
def test_no_value_of_the_table_passes_the_check() -> None:
    passed = []
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        for line, group in groupby(CASES, key=lambda case: case[0]):
            verb, *choices = line.split()
            cfg = compose(verb, overrides=choices, return_hydra_config=True)
            passed += [
                (line, key, value) for _, key, value in group if not is_refused(cfg, key, value)
            ]
    assert passed == []


def is_refused(cfg, key: str, value: str) -> bool:
    argument = f"{key}={value}"
    (override,) = OverridesParser.create().parse_overrides([argument])
    changed = cfg.copy()
    try:
        refuse_choices([argument])
        if (CONF_DIR / key).is_dir():  # a name that is no file: Hydra says which there are
            return not (CONF_DIR / key / f"{override.value()}.yaml").is_file()
        OmegaConf.update(
            changed, key.lstrip("+"), override.value(), merge=True, force_add=key.startswith("+")
        )
        refuse_values(changed)
    except (UserError, OmegaConfBaseException) as error:
        return key.lstrip("+").rpartition(".")[2] in str(error)
    return False


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where a recording of a few scenes is, for trainings that follow."""
    folder = tmp_path_factory.mktemp("recorded")
    assert run_forked(["record", *ALONE], folder, timeout=120).status == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("line", REFUSED_LATER)
def test_what_the_table_cannot_know_is_refused_before_anything_is_computed(
    line: str, recorded: Path
) -> None:
    verb, *overrides = line.split()
    before = sorted((recorded / "outputs").rglob("*.tar"))
    small = ALONE if verb in ("train", "record") else ()
    outcome = run_forked([verb, *small, *overrides], recorded, timeout=60)
    assert complaint(outcome) == ""
    assert sorted((recorded / "outputs").rglob("*.tar")) == before
    assert not list(recorded.rglob("sae"))


@pytest.mark.slow
@pytest.mark.parametrize("line", ACCEPTED)
def test_extremes_that_make_sense_run_to_their_end(line: str, recorded: Path) -> None:
    verb, *overrides = line.split()
    quick = [one for one in ("evaluation.fidelity=false", "evaluation.figures=false")
             if one.partition("=")[0] not in line]  # fmt: skip
    run_dir = recorded / "runs" / str(ACCEPTED.index(line))
    outcome = run_forked(
        [verb, *ALONE, *quick, *overrides, f"hydra.run.dir={run_dir}"], recorded, timeout=120
    )
    assert outcome.status == 0, outcome.stderr[-2000:]
    assert outcome.peak_bytes < MOST_BYTES
    assert (run_dir / "sae" / "weights.safetensors").is_file()
