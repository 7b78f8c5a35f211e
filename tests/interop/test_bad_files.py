"""What cannot be read is refused by one sentence that names the file and what to do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from saev.errors import UserError
from saev.interop import convert_sae, open_sae
from saev.loading import open_dictionary

DATA = Path(__file__).parent / "data"


def copied(case: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(DATA / case / "saved", tmp_path / case))


def settings(folder: Path, name: str, change: Callable[[Any], object]) -> None:
    path = folder / name
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def refused(source: object, *parts: str) -> None:
    with pytest.raises(UserError) as caught:
        open_sae(source)
    said = str(caught.value)
    assert "\n" not in said and len(said) < 700
    assert all(part in said for part in parts), said


@pytest.mark.parametrize(
    ("case", "file"),
    [
        ("saelens_topk", "sae_weights.safetensors"),
        ("dictlearn_topk", "ae.pt"),
        ("upstream_schema5_topk", "sae.pt"),
    ],
)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file(case: str, file: str, share: float, tmp_path: Path) -> None:
    path = copied(case, tmp_path) / file
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(path.parent, file)


def test_two_layouts_in_one_folder(tmp_path: Path) -> None:
    folder = copied("saelens_topk", tmp_path)
    for file in (DATA / "dictlearn_topk" / "saved").iterdir():
        shutil.copy(file, folder)
    refused(folder, "several weights", "ae.pt")
    (folder / "sae_weights.safetensors").unlink()
    refused(folder, "cfg.json and config.json")
    (folder / "config.json").unlink()
    refused(folder, "ae.pt", "no layout known here")


def test_weights_of_one_layout_with_the_settings_of_another(tmp_path: Path) -> None:
    folder = copied("saelens_topk", tmp_path)
    shutil.copy(DATA / "sparsify_topk" / "saved" / "cfg.json", folder / "cfg.json")
    refused(folder, "no layout known here", "SAELens")


def test_settings_that_are_missing_or_no_settings(tmp_path: Path) -> None:
    folder = copied("saelens_topk", tmp_path)
    (folder / "cfg.json").write_text("{")
    refused(folder, "cfg.json")
    (folder / "cfg.json").unlink()
    refused(folder, "settings file may be missing")
    refused(tmp_path, "no weights")


def test_an_architecture_or_normaliser_nobody_knows(tmp_path: Path) -> None:
    folder = copied("saelens_topk", tmp_path)
    settings(folder, "cfg.json", lambda c: c.update(architecture="hypersphere"))
    refused(folder, "hypersphere", "jumprelu")
    settings(folder, "cfg.json", lambda c: c.update(architecture="topk", normalize_activations="x"))
    refused(folder, "normalize_activations='x'")
    settings(folder, "cfg.json", lambda c: c.update(normalize_activations="none", k=17))
    refused(folder, "k must not exceed")
    settings(folder, "cfg.json", lambda c: c.update(k="many"))
    refused(folder, "k='many'")
    folder = copied("dictlearn_topk", tmp_path)
    settings(folder, "config.json", lambda c: c["trainer"].update(dict_class="Crosscoder"))
    refused(folder, "dict_class='Crosscoder'", "AutoEncoderTopK")


FORMS = (
    "saelens_topk_training", "saelens_legacy_topk", "dictlearn_trained", "sparsify_topk",
    "overcomplete_ratopk", "prisma_topk", "visaebench_topk",
)  # fmt: skip
"""One of each layout that has settings in JSON."""
NONSENSE = [None, True, -1, 2.5, "x", [], [[1]], {}, {"a": {}}, float("inf")]


@pytest.mark.parametrize("case", FORMS)
def test_settings_of_any_form_end_in_a_sentence(case: str, tmp_path: Path) -> None:
    """Every setting, and every one of an inner mapping, is replaced by what nobody would write."""
    folder = copied(case, tmp_path)
    (path,) = folder.glob("*.json")
    content = json.loads(path.read_text())
    places = [(key,) for key in content]
    places += [(key, k) for key, inner in content.items() if isinstance(inner, dict) for k in inner]
    for place in places:
        for value in NONSENSE:
            changed = json.loads(json.dumps(content))
            node = changed
            for key in place[:-1]:
                node = node[key]
            node[place[-1]] = value
            path.write_text(json.dumps(changed))
            try:
                open_sae(folder)
            except UserError as error:
                assert "\n" not in str(error), (place, value)


def test_a_missing_threshold(tmp_path: Path) -> None:
    folder = copied("saelens_jumprelu", tmp_path)
    weights = load_file(folder / "sae_weights.safetensors")
    del weights["threshold"]
    save_file(weights, folder / "sae_weights.safetensors")
    refused(folder, "no tensor threshold")
    folder = copied("overcomplete_batchtopk", tmp_path)
    settings(folder, "config.json", lambda c: c.pop("running_threshold"))
    refused(folder, "no running_threshold", "config.json")


def test_weights_that_are_not_finite_or_of_another_shape(tmp_path: Path) -> None:
    folder = copied("saelens_topk", tmp_path)
    weights = load_file(folder / "sae_weights.safetensors")
    save_file(
        {**weights, "b_enc": weights["b_enc"] * torch.nan}, folder / "sae_weights.safetensors"
    )
    refused(folder, "values in b_enc that are not finite")
    save_file({**weights, "b_dec": weights["b_dec"][:5]}, folder / "sae_weights.safetensors")
    refused(folder, "b_dec of shape (5,)")
    whole = weights["W_dec"].int()
    save_file({**weights, "W_dec": whole}, folder / "sae_weights.safetensors")
    refused(folder, "W_dec of type torch.int32")


def test_a_pickled_object_is_not_opened_but_can_be_converted(tmp_path: Path) -> None:
    folder = copied("patchsae_pickled_config", tmp_path)
    refused(folder, "holds pickled objects", "python -m saev.interop.unpickle")
    from saev.interop.unpickle import main

    (tmp_path / "plain").mkdir()
    main([str(folder / "sae.pt"), str(tmp_path / "plain" / "sae.pt")])
    assert open_sae(tmp_path / "plain").cfg.d_sae == 16
    for arguments in ([], [str(tmp_path / "none.pt"), "x"]):
        with pytest.raises(SystemExit, match="usage"):
            main(arguments)


class Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (exec, ("raise SystemError('code ran')",))


def test_code_in_a_file_does_not_run(tmp_path: Path) -> None:
    torch.save({"cfg": Bomb(), "state_dict": {}}, tmp_path / "sae.pt")
    refused(tmp_path, "pickled objects")
    header = b'{"schema": 5, "cfg": {}}\n'
    (tmp_path / "sae.pt").write_bytes(header + (tmp_path / "sae.pt").read_bytes())
    refused(tmp_path, "pickled objects")


def test_weights_that_claim_to_be_larger_than_the_file(tmp_path: Path) -> None:
    import zipfile

    wide = torch.zeros(1).expand(100_000, 100_000)
    content = {"W_enc": wide, "b_enc": wide, "W_dec": wide, "b_dec": wide}
    header = b'{"d_vit": 8, "exp_factor": 2}\n'
    torch.save(content, tmp_path / "sae.pt")
    (tmp_path / "sae.pt").write_bytes(header + (tmp_path / "sae.pt").read_bytes())
    refused(tmp_path, "too small for it")
    torch.save(torch.zeros(10**6), tmp_path / "sae.pt")
    packed = tmp_path / "packed" / "sae.pt"
    packed.parent.mkdir()
    with (
        zipfile.ZipFile(tmp_path / "sae.pt") as plain,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as out,
    ):
        for name in plain.namelist():
            out.writestr(name, plain.read(name))
    refused(packed, "compressed weights")


def test_what_is_no_file_of_weights(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "neither a file nor a folder")
    (tmp_path / "notes.txt").write_text("x")
    refused(tmp_path / "notes.txt", "none of the endings of weights")


def test_a_dictionary_of_a_language_model(tmp_path: Path) -> None:
    folder = copied("saelens_topk", tmp_path)
    settings(folder, "cfg.json", lambda c: c["metadata"].update(model_name="gpt2-small"))
    sae = open_sae(folder)
    assert any("gpt2-small" in line for line in sae.cfg.recipe["imported"]["said"])
    with pytest.raises(UserError, match="does not say which backbone"):
        open_dictionary(str(folder))
    convert_sae(folder, tmp_path / "out", backbone="micro", layer=4, tokens="patch")
    with pytest.raises(UserError, match="reads 8 dimensions and micro has 128"):
        open_dictionary(tmp_path / "out")


def test_what_a_question_of_the_file_needs() -> None:
    refused(DATA / "visaebench_topk" / "saved", "mean and scale of its inputs", "recording=DIR")
    refused(DATA / "upstream_schema2_subtract" / "saved", "b_dec is subtracted", "recording=DIR")


def test_a_schema_of_the_future(tmp_path: Path) -> None:
    folder = copied("upstream_schema5_topk", tmp_path)
    first, _, rest = (folder / "sae.pt").read_bytes().partition(b"\n")
    header = {**json.loads(first), "schema": 9}
    (folder / "sae.pt").write_bytes(json.dumps(header).encode() + b"\n" + rest)
    refused(folder, "schema 9")


def test_conversions_that_are_refused(tmp_path: Path) -> None:
    case = DATA / "saelens_topk" / "saved"
    with pytest.raises(UserError, match="is not empty"):
        convert_sae(case, case)
    with pytest.raises(UserError, match="to='onnx'"):
        convert_sae(case, tmp_path / "x", to="onnx")
    with pytest.raises(UserError, match="group_max, which SAELens cannot hold"):
        convert_sae(DATA / "sparsify_groupmax" / "saved", tmp_path / "x", to="saelens")
    assert not (tmp_path / "x").exists()
