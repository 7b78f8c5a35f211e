"""What a user can get wrong ends in one sentence, a non-zero status, and nothing damaged."""

import io
import pickle
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.fakes.commands import ALONE, Run, assert_sentence


@pytest.fixture
def recorded(trained: Path, tmp_path: Path) -> Path:
    """A finished recording of a few scenes, where ``run`` finds it; to be damaged."""
    shutil.copytree(trained / "outputs" / "activations", tmp_path / "outputs" / "activations")
    (folder,) = (tmp_path / "outputs" / "activations").iterdir()
    return folder


def first_train_shard(folder: Path) -> Path:
    return folder / "train-000000.tar"


def test_layer_out_of_range(run: Run) -> None:
    assert_sentence(run("train", *ALONE, "backbone.layer=99"), "99", "0 to 5", "backbone.layer")


def test_weights_of_another_architecture(run: Run, tmp_path: Path) -> None:
    weights = tmp_path / "other.safetensors"
    save_file({"blocks.0.attn.qkv.weight": torch.zeros(3, 3)}, weights)
    assert_sentence(run("train", *ALONE, f"backbone.weights={weights}"), "other.safetensors")


def test_corrupt_weights(run: Run, tmp_path: Path) -> None:
    weights = tmp_path / "broken.safetensors"
    weights.write_bytes(b"\x00" * 100)
    assert_sentence(run("train", *ALONE, f"backbone.weights={weights}"), "broken.safetensors")


def test_pickle_offered_as_weights_is_not_opened(run: Run, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    weights = tmp_path / "evil.pt"
    weights.write_bytes(pickle.dumps({"state_dict": Evil()}))
    assert_sentence(run("train", *ALONE, f"backbone.weights={weights}"), "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_missing_image_folder(run: Run, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    status = run("train", *ALONE, "images=folder", f"images.roots=[{nowhere}]")
    assert_sentence(status, str(nowhere), "images.roots")


def test_empty_image_folder(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    status = run("train", *ALONE, "images=folder", f"images.roots=[{tmp_path / 'empty'}]")
    assert_sentence(status, "empty", "images.roots")


def test_folder_source_without_roots(run: Run) -> None:
    assert_sentence(run("train", *ALONE, "images=folder"), "images.roots")


@pytest.mark.slow
def test_truncated_jpeg_and_text_named_jpg(
    run: Run, on_photos: tuple[str, ...], photos: Path, tmp_path: Path
) -> None:
    whole = (photos / "red" / "1.jpg").read_bytes()
    (photos / "red" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    tiny = (*ALONE, *on_photos, "images.n_images=null")
    assert_sentence(run("record", *tiny), "cut.jpg")
    (photos / "red" / "cut.jpg").unlink()
    (photos / "blue" / "note.jpg").write_text("not a picture")
    assert_sentence(run("record", *tiny), "note.jpg")
    assert run("record", *tiny, "images.on_error=skip") is None
    (manifest,) = (tmp_path / "outputs" / "activations").glob("*/manifest.json")
    assert "note.jpg" in manifest.read_text()


def make_tar(path: Path, names: list[str]) -> None:
    from PIL import Image

    with tarfile.open(path, "w") as tar:
        for name in names:
            data = io.BytesIO()
            Image.effect_noise((48, 48), 50).convert("RGB").save(data, "png")
            info = tarfile.TarInfo(name)
            info.size = data.tell()
            data.seek(0)
            tar.addfile(info, data)


def test_image_tar_cut_in_the_middle(run: Run, tmp_path: Path) -> None:
    tar = tmp_path / "cut.tar"
    make_tar(tar, [f"{n}.png" for n in range(6)])
    tar.write_bytes(tar.read_bytes()[:6000])
    status = run("record", *ALONE, "images=webdataset", f"images.urls={tar}")
    assert_sentence(status, "cut.tar")


def test_tar_member_outside_its_folder(run: Run, tmp_path: Path) -> None:
    tar = tmp_path / "escape.tar"
    make_tar(tar, ["0.png", "../evil.png"])
    status = run("record", *ALONE, "images=webdataset", f"images.urls={tar}")
    assert_sentence(status, "escape.tar", "../evil")


def test_one_flipped_byte_in_a_shard(run: Run, recorded: Path) -> None:
    shard = first_train_shard(recorded)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(bytes(content))
    for status in (run("train", *ALONE), run("record", f"verify={recorded}")):
        assert_sentence(status, shard.name)


def test_shard_cut_in_the_middle(run: Run, recorded: Path) -> None:
    shard = first_train_shard(recorded)
    shard.write_bytes(shard.read_bytes()[:-2048])
    assert_sentence(run("train", *ALONE), shard.name)


def test_manifest_of_another_version(run: Run, recorded: Path) -> None:
    manifest = recorded / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"format_version": 1', '"format_version": 99'))
    assert_sentence(run("train", *ALONE, f"data.dir={recorded}"), "99")


def test_activations_of_another_layer(run: Run, recorded: Path) -> None:
    status = run("train", *ALONE, f"data.dir={recorded}", "backbone.layer=0")
    assert_sentence(status, "layer")


def test_nan_in_activations(run: Run, tmp_path: Path) -> None:
    from saev.backbones.micro.micro_vit import MICRO_DIR

    weights = load_file(MICRO_DIR / "weights.safetensors")
    weights["blocks.2.mlp.fc2.bias"][0] = float("nan")
    save_file(weights, tmp_path / "nan.safetensors")
    status = run("record", *ALONE, f"backbone.weights={tmp_path / 'nan.safetensors'}")
    assert_sentence(status, "scenes-")


@pytest.mark.slow
def test_values_that_float16_cannot_hold(run: Run, tmp_path: Path) -> None:
    from saev.backbones.micro.micro_vit import MICRO_DIR

    weights = load_file(MICRO_DIR / "weights.safetensors")
    weights["blocks.4.mlp.fc2.bias"] = torch.full_like(weights["blocks.4.mlp.fc2.bias"], 60000.0)
    weights["blocks.3.mlp.fc2.bias"] = torch.full_like(weights["blocks.3.mlp.fc2.bias"], 60000.0)
    save_file(weights, tmp_path / "large.safetensors")
    large = f"backbone.weights={tmp_path / 'large.safetensors'}"
    assert_sentence(run("record", *ALONE, large), "float32", "4")
    assert run("record", *ALONE, large, "record.dtype=float32") is None


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.k=100000", ("k", "100000")),
        ("model.k=0", ("k", "0")),
        ("model.optimizer.lr=-1e-3", ("lr", "-0.001")),
        ("data.batch_size=0", ("batch_size", "0")),
        ("images.n_images=0", ("n_images", "0")),
        ("tokens.which=words", ("words", "patch")),
        ("record.dtype=bfloat16", ("bfloat16", "float32")),
    ],
)
def test_values_out_of_range(run: Run, override: str, words: tuple[str, ...]) -> None:
    assert_sentence(run("train", *ALONE, override), *words)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("model=matryoshka", "model.k=60"), ("narrowest prefix of", "60")),
        (("model=multi_topk", "model.k=100"), ("factor of MultiTopK", "100 × 4")),
        (("model=jump_relu", "model.k=0"), ("model.k=0", "above 0")),
        (("model=gated", "model.k=0"), ("model.k=0", "above 0")),
        (("model=gated", "model.objective=null"), ("model.objective", "gate")),
        (("model=jump_relu", "model.activation=relu", "model.k=null"), ("TargetL0", "jump_relu")),
        (
            ("model=archetypal", "model.decoder.n_points=null"),
            ("model.decoder.n_points=null", "whole"),
        ),
        (("model=archetypal", "model.init.atoms=data"), ("init.atoms", "ArchetypalAtoms")),
        (("callbacks=resample", "model=frozen_decoder"), ("ResampleDeadLatents", "FrozenAtoms")),
        (("callbacks=resample",), ("every_n_tokens=500000", "1024 tokens")),
        (
            ("callbacks=resample", "callbacks.resample.every_n_tokens=512"),
            ("dead_after_tokens=200000", "1024 tokens"),
        ),
        (
            ("callbacks=ema", "callbacks.ema.decay=1.0"),
            ("callbacks.ema.decay=1.0", "above 0 below 1"),
        ),
        (("trainer.max_steps=-1",), ("learning_rate.decay_fraction", "trainer.max_steps")),
        (
            ("model=p_anneal", "trainer.max_steps=-1", "model.learning_rate.decay_fraction=0"),
            ("PAnneal", "trainer.max_steps"),
        ),
        (("model.init.bias=median",), ("init.bias", "geometric_median", "median")),
    ],
)
def test_combinations_without_sense_are_refused_before_any_data_is_read(
    run: Run, tmp_path: Path, overrides: tuple[str, ...], words: tuple[str, ...]
) -> None:
    tiny = [o for o in ALONE if not (o.startswith("model.k=") and "model.k" in " ".join(overrides))]
    if any(o.startswith(("model=p_anneal", "model.k=null")) for o in overrides):
        tiny = [o for o in tiny if not o.startswith("model.k=")]
    assert_sentence(run("train", *tiny, *overrides), *words)
    assert not (tmp_path / "outputs" / "activations").exists()


BEFORE_RECORDING = [
    (("objective=val/explained_varianse",), ("objective=val/explained_varianse", "val/l0")),
    (
        ("objective=fidelity/kl_recovered", "evaluation.fidelity=false"),
        ("evaluation.fidelity=true",),
    ),
    (("objective=fidelity/kl/rebuilt",), ("objective=fidelity/kl/rebuilt",)),
    (("images.val_fraction=0.0",), ("no held-out images", "images.val_fraction")),
    (("data.reservoir_tokens=200",), ("data.reservoir_tokens=200", "data.batch_size=256")),
    (("data.batch_size=100000", "data.reservoir_tokens=100000"), ("lower data.batch_size=100000",)),
    (("model.d_sae=1000000000",), ("model.d_sae=1000000000", "GB of memory")),
    (("model.expansion=1e6",), ("model.expansion=1000000.0", "GB of memory")),
    (("callbacks.best.monitor=val/typo",), ("val/typo", "val/explained_variance")),
    (("trainer.devices=[7]",), ("trainer.devices", "int > 0")),
]
"""What used to be found out after the recording, or not at all."""


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        pytest.param(
            *case, marks=[] if case[0][0] == "images.val_fraction=0.0" else pytest.mark.slow
        )
        for case in BEFORE_RECORDING
    ],
)
def test_what_a_run_would_refuse_at_its_end_is_refused_at_its_start(
    run: Run, tmp_path: Path, overrides: tuple[str, ...], words: tuple[str, ...]
) -> None:
    assert_sentence(run("train", *ALONE, *overrides), *words)
    assert not (tmp_path / "outputs" / "activations").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("objective=val/l0",), ("objective=val/l0", "test/accuracy")),
        (("model.learning_rates=[]",), ("learning_rates",)),
        (("images.val_fraction=0.0",), ("no held-out images",)),
    ],
)
def test_a_head_that_cannot_end_well_is_refused_before_features_are_recorded(
    run: Run, tmp_path: Path, overrides: tuple[str, ...], words: tuple[str, ...]
) -> None:
    tiny = [one for one in ALONE if one.startswith(("images.", "trainer.", "record."))]
    assert_sentence(run("train", "task=head", *tiny, *overrides), *words)
    assert not (tmp_path / "outputs" / "activations").exists()


def test_a_disk_too_small_is_seen_before_anything_is_recorded(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 100_000  # bytes; 24 images of 144 tokens of width 128 in float16 take 0.9 MB
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    assert_sentence(run("record", *ALONE), "0.000946 GB", "0.0001 GB free", "paths.outputs")
    assert not list((tmp_path / "outputs").rglob("*.tar"))
    assert_sentence(run("train", *ALONE), "checkpoints", "0.0001 GB free", "paths.outputs")


@pytest.mark.slow
@pytest.mark.usefixtures("recorded")
def test_checkpoint_of_another_width(run: Run, trained: Path, tmp_path: Path) -> None:
    last = tmp_path / "last.ckpt"
    shutil.copy(trained / "run" / "checkpoints" / "last.ckpt", last)
    status = run("train", *ALONE, "model.expansion=4", f"ckpt_path={last}")
    assert_sentence(status, "last.ckpt", "model.expansion")
    assert_sentence(run("train", *ALONE, "ckpt_path=nowhere.ckpt"), "nowhere.ckpt")
    last.write_bytes(last.read_bytes()[:5000])
    assert_sentence(run("train", *ALONE, f"ckpt_path={last}"), "last.ckpt")


def test_sae_pointing_nowhere(run: Run, tmp_path: Path) -> None:
    assert_sentence(run("evaluate", f"sae={tmp_path / 'nowhere'}"), "nowhere")


@pytest.mark.slow
def test_mlflow_server_that_is_not_there(run: Run) -> None:
    status = run("train", *ALONE, "logger=mlflow", "logger.tracking_uri=http://127.0.0.1:9")
    assert_sentence(status, "127.0.0.1:9", "logger.tracking_uri")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("backbone=nope",), ("nope", "backbone")),
        (("model.kk=3",), ("kk",)),
        (("experiment=smoke",), ("experiment",)),
    ],
)
def test_config_mistakes_on_the_real_command_line(
    tmp_path: Path, overrides: tuple[str, ...], words: tuple[str, ...]
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "saev.train", f"paths.outputs={tmp_path}", *overrides],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_disk_full_while_recording(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a real small file system where this process may mount one; another process filled it after the
    start, when there was room enough."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**9))
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a tmpfs needs privileges this process does not have")
    try:
        status = run("record", *ALONE, f"record.root={small}")
        assert_sentence(status, "disk", str(small))
        (folder,) = small.iterdir()
        whole = sorted(folder.glob("*.tar"))
        for shard in whole:  # what is there is whole
            with tarfile.open(shard) as tar:
                names = tar.getnames()
            assert len(names) == 2 * 8
        assert not list(folder.glob("*.tmp"))
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_every_manifest_number_is_finite(recorded: Path) -> None:
    import json

    statistics = json.loads((recorded / "manifest.json").read_text())["statistics"]
    assert np.isfinite(statistics["mean"]).all() and statistics["scale"] > 0
