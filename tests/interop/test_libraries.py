"""The libraries themselves: what they save now is what the data holds, and they read what we write.

Skipped unless SAEV_INTEROP_ENVS names a folder of environments: ``make test-interop``.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from saev.interop import convert_sae, open_sae
from saev.sae import SAEConfig, SparseAutoencoder

HERE = Path(__file__).parent
DATA = HERE / "data"
ENVS = os.environ.get("SAEV_INTEROP_ENVS")
LIBRARIES = ("saelens", "dictlearn", "sparsify", "overcomplete")
SETTINGS = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "SPARSIFY_DISABLE_TRITON": "1"}
KINDS = [("relu", None), ("topk", 5), ("batch_topk", 4.5), ("jump_relu", None), ("gated", None)]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(ENVS is None, reason="make test-interop sets the libraries up"),
]


def python_of(library: str) -> str:
    path = Path(ENVS or "") / library / "bin" / "python"
    if not path.is_file():
        pytest.skip(f"there is no environment of {library} in {ENVS}")
    return str(path.absolute())


def ran(library: str, *arguments: str) -> None:
    done = subprocess.run(
        [python_of(library), *arguments], env={**os.environ, **SETTINGS}, capture_output=True,
        text=True, timeout=600, cwd=HERE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("library", LIBRARIES)
def test_what_they_save_now_is_what_the_data_holds(library: str, tmp_path: Path) -> None:
    ran(library, str(HERE / "makers" / f"make_{library}.py"), str(tmp_path))
    cases = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert len(cases) >= 8
    for name in cases:
        now = load_file(tmp_path / name / "expected.safetensors")
        then = load_file(DATA / name / "expected.safetensors")
        assert now.keys() == then.keys()
        for key, tensor in now.items():
            torch.testing.assert_close(tensor, then[key], rtol=1e-4, atol=1e-5, equal_nan=True)
        theirs = sorted(p.name for p in (tmp_path / name / "saved").rglob("*"))
        assert theirs == sorted(p.name for p in (DATA / name / "saved").rglob("*"))


@pytest.mark.parametrize(
    ("library", "to"), [("saelens", "saelens"), ("dictlearn", "dictionary_learning")]
)
@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize(("activation", "k"), KINDS)
def test_they_read_what_we_write(
    library: str, to: str, subtract: bool, activation: str, k: int | float | None, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(0)
    sae = SparseAutoencoder(SAEConfig(10, 24, activation, k, subtract), generator)
    sae.requires_grad_(False).eval()
    for tensor in sae.state_dict().values():
        tensor.add_(0.5 * torch.randn(tensor.shape, generator=generator))
    sae.set_statistics(3 + torch.randn(10, generator=generator), 0.37, None)
    x = 3 + 2 * torch.randn(60, 10, generator=generator)
    convert_sae(sae, tmp_path / "out", to=to)
    save_file({"x": x}, tmp_path / "x.safetensors")
    found = tmp_path / "found.safetensors"
    script = str(HERE / "readers" / f"read_{library}.py")
    ran(library, script, str(tmp_path / "out"), str(tmp_path / "x.safetensors"), str(found))
    theirs, z = load_file(found), sae.encode(x)
    torch.testing.assert_close(theirs["z"], z, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(theirs["x_hat"], sae.decode(z), rtol=1e-3, atol=1e-4)


def test_a_normaliser_of_each_token_is_read_by_saelens(tmp_path: Path) -> None:
    case = DATA / "saelens_topk_layer_norm"
    convert_sae(open_sae(case / "saved"), tmp_path / "out", to="saelens")
    assert json.loads((tmp_path / "out" / "cfg.json").read_text())["k"] == 3
    found = tmp_path / "found.safetensors"
    script = str(HERE / "readers" / "read_saelens.py")
    ran("saelens", script, str(tmp_path / "out"), str(case / "expected.safetensors"), str(found))
    expected = load_file(case / "expected.safetensors")
    torch.testing.assert_close(load_file(found)["z"], expected["z"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("library", ["saelens", "dictlearn", "overcomplete"])
def test_objects_in_memory_are_read_like_their_files(library: str, tmp_path: Path) -> None:
    import safetensors

    site = str(Path(safetensors.__file__).parents[1])
    out = tmp_path / "found.safetensors"
    ran(
        library,
        str(HERE / "readers" / "read_object.py"),
        library,
        site,
        str(HERE.parents[1]),
        str(out),
    )
    found = load_file(out)
    assert 0 < (found["z"] != 0).float().mean() < 0.6
    torch.testing.assert_close(found["z_ours"], found["z"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["x_hat_ours"], found["x_hat"], rtol=1e-4, atol=1e-4)
