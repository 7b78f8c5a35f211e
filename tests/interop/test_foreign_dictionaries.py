"""Every file that another library wrote gives the codes and reconstructions that the library gave.

``tests/interop/data`` was made by ``tests/interop/makers`` in environments of the libraries.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from saev.errors import UserError
from saev.interop import convert_sae, open_sae
from saev.interop.foreign import Foreign, to_dictionary
from saev.interop.layouts import read_foreign
from saev.sae import SparseAutoencoder

DATA = Path(__file__).parent / "data"
CASES = sorted(DATA.iterdir())
READ = [case for case in CASES if json.loads((case / "case.json").read_text())["refuse"] is None]
REFUSED = [case for case in CASES if case not in READ]
TOLERANCE = 1e-5


class Expected(NamedTuple):
    x: Tensor
    z: Tensor
    x_hat: Tensor


def expected_of(case: Path) -> Expected:
    found = load_file(case / "expected.safetensors")
    return Expected(found["x"], found["z"], found["x_hat"])


def opened(case: Path) -> SparseAutoencoder:
    """The reading whose codes are nearest: recordings, which decide otherwise, have tests of their own."""
    expected = expected_of(case)
    found = [to_dictionary(foreign, case.name) for foreign in readings(case)]
    width = expected.z.shape[1]
    return min(found, key=lambda sae: apart(signed(sae.encode(expected.x), width), expected.z))


def signed(z: Tensor, width: int) -> Tensor:
    """Codes of signed dictionaries lie in two halves here."""
    return z if z.shape[1] == width else z[:, :width] - z[:, width:]


def apart(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm().clamp_min(1e-12))


def readings(case: Path) -> list[Foreign]:
    """The file's, or both of one that leaves open whether a bias is subtracted."""
    foreign = read_foreign(case / "saved")
    if foreign.open_question == "subtract_b_dec":
        return [replace(foreign, subtract_b_dec=which) for which in (True, False)]
    return [foreign]


def agrees(sae: SparseAutoencoder, expected: Expected) -> None:
    codes = sae.encode(expected.x)
    z = signed(codes, expected.z.shape[1])
    assert torch.equal(z != 0, expected.z != 0)
    assert apart(z, expected.z) <= TOLERANCE
    assert apart(sae.decode(codes, expected.x), expected.x_hat) <= TOLERANCE


def test_there_are_cases_of_every_layout() -> None:
    layouts = {read_foreign(case / "saved").layout for case in READ}
    assert layouts == {
        "sae_lens", "dictionary_learning", "sparsify", "overcomplete", "prisma", "patch_sae", "msae",
        "visaebench", "saev_upstream",
    }  # fmt: skip


@pytest.mark.parametrize("case", READ, ids=lambda case: case.name)
def test_codes_and_reconstructions_are_the_library_s(case: Path) -> None:
    agrees(opened(case), expected_of(case))


@pytest.mark.parametrize("case", READ, ids=lambda case: case.name)
def test_so_they_are_after_our_own_files(case: Path, tmp_path: Path) -> None:
    opened(case).save_pretrained(tmp_path)
    agrees(open_sae(tmp_path), expected_of(case))


@pytest.mark.parametrize("to", ["saelens", "dictionary_learning"])
@pytest.mark.parametrize("case", READ, ids=lambda case: case.name)
def test_and_after_the_files_of_another_library(case: Path, to: str, tmp_path: Path) -> None:
    sae = opened(case)
    try:
        convert_sae(sae, tmp_path / "out", to=to)
    except UserError as error:
        assert (
            sae.cfg.skip
            or sae.cfg.activation in ("signed_topk", "group_max")
            or (to == "dictionary_learning" and sae.cfg.token_norm != "none")
        )
        assert "cannot hold" in str(error)
        return
    agrees(open_sae(tmp_path / "out"), expected_of(case))


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_what_is_no_dictionary_of_one_place_is_refused(case: Path) -> None:
    with pytest.raises(UserError) as caught:
        open_sae(case / "saved")
    assert case.name in str(caught.value) and "\n" not in str(caught.value)
