"""``saev.convert`` through its files, and its output in the other commands."""

import json
from pathlib import Path

import pytest

from saev.interop import open_sae
from tests.fakes.commands import SMALL, Run, assert_sentence

DATA = Path(__file__).parents[1] / "interop" / "data"


def test_list_shows_names_and_places(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("convert", "list=true") is None
    said = capsys.readouterr().out
    assert "osunlp:clip_b16" in said and "visaebench:clip_16x_k128" in said
    assert "osunlp/SAE_CLIP_24K_ViT-B-16_IN1K#sae.pt" in said


def test_refusals(run: Run, sae_dir: Path, tmp_path: Path) -> None:
    assert_sentence(run("convert"), "sae=", "out=DIR", "list=true")
    assert_sentence(run("convert", "sae=prisma:clip_b32_layr9", f"out={tmp_path}/o"), "nearest are")
    assert_sentence(run("convert", f"sae={sae_dir}", f"out={sae_dir}"), "is not empty")
    out = f"out={tmp_path}/o"
    assert_sentence(run("convert", f"sae={sae_dir}", out, "to=onnx"), "to='onnx'", "saelens")
    assert_sentence(
        run("convert", f"sae={sae_dir}", out, "belongs.backbone=clip_b17"), "no backbone 'clip_b17'"
    )
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
def test_there_and_back_and_through_the_other_commands(
    run: Run, sae_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """To SAELens and back, evaluated and described as a folder of SAELens: numbers stay."""
    theirs = tmp_path / "theirs"
    assert run("convert", f"sae={sae_dir}", f"out={theirs}", "to=saelens") is None
    assert {f.name for f in theirs.iterdir()} == {"cfg.json", "sae_weights.safetensors"}
    assert run("convert", f"sae={theirs}", f"out={tmp_path}/back") is None
    assert "sae_lens" in capsys.readouterr().out
    numbers = {}
    for name, folder in (("ours", sae_dir), ("theirs", theirs)):
        out = tmp_path / f"run_{name}"
        assert run("evaluate", f"sae={folder}", f"hydra.run.dir={out}", "evaluation.num_workers=0",
                   "trainer.accelerator=cpu") is None  # fmt: skip
        numbers[name] = json.loads((out / "metrics.json").read_text())
    assert numbers["theirs"].keys() == numbers["ours"].keys()
    for key in ("val/explained_variance", "val/l0", "val/ce_recovered"):
        if key in numbers["ours"]:
            assert numbers["theirs"][key] == pytest.approx(numbers["ours"][key], abs=1e-4)
    assert run("describe", f"sae={theirs}", f"hydra.run.dir={tmp_path}/atlas", *SMALL) is None


@pytest.mark.slow
def test_a_normaliser_of_each_token_goes_through_describing_and_an_experiment(
    run: Run, sae_dir: Path, tmp_path: Path
) -> None:
    import torch
    import yaml

    from saev.sae import SparseAutoencoder
    from tests.fakes.commands import HYPOTHESIS

    sae = open_sae(sae_dir)
    values = {**sae.cfg.to_dict(), "token_norm": "layer_norm"}
    normed = SparseAutoencoder(type(sae.cfg).from_dict(values, "here"), torch.Generator())
    normed.load_state_dict(sae.state_dict())
    folder = normed.save_pretrained(tmp_path / "sae")
    assert run("describe", f"sae={folder}", f"hydra.run.dir={tmp_path}/atlas", *SMALL) is None
    (tmp_path / "h.yaml").write_text(yaml.safe_dump(HYPOTHESIS))
    status = run(
        "intervene", f"sae={folder}", f"hypothesis={tmp_path}/h.yaml", "trainer.accelerator=cpu",
        f"hydra.run.dir={tmp_path}/experiment", "intervention.num_workers=0", "head=attributes",
        "images=scenes", "images.n_images=80", "images.val_fraction=0.4",
    )  # fmt: skip
    assert status is None
    assert (tmp_path / "experiment" / "report" / "verdict.json").is_file()
