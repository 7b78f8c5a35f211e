"""The public names: imported when used, configured by plain values, with the defaults of the commands."""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import saev
from datamodules.images import ScenesImages
from saev import (
    Atlas,
    Hypothesis,
    SparseAutoencoder,
    Steering,
    compare_dictionaries,
    describe_dictionary,
    edits,
    encode_images,
    evaluate_dictionary,
    fit_dictionary,
    load_backbone,
    open_dictionary,
    record_activations,
    run_experiment,
)
from saev.backbones import Backbone
from saev.defaults import defaults
from saev.errors import UserError
from saev.recording.record_activations import Recording

NAMES = {
    "SparseAutoencoder", "open_dictionary", "load_backbone", "record_activations", "fit_dictionary",
    "evaluate_dictionary", "encode_images", "describe_dictionary", "Atlas", "compare_dictionaries",
    "Hypothesis", "run_experiment", "attribute", "Steering", "Tokens", "edits", "explore",
}  # fmt: skip
QUIET = {"progress": False}
SMALL = {"k": 4, "expansion": 2, "max_steps": 3, "batch_size": 128, "reservoir_tokens": 256}


@pytest.fixture(scope="module")
def micro() -> Backbone:
    return load_backbone("micro")


@pytest.fixture(scope="module")
def scenes() -> ScenesImages:
    return ScenesImages(n_images=24, val_fraction=0.4)


@pytest.fixture(scope="module")
def acts(micro, scenes, tmp_path_factory) -> Recording:
    root = tmp_path_factory.mktemp("activations")
    return record_activations(micro, scenes, root=root, num_workers=0, **QUIET)


@pytest.fixture(scope="module")
def sae(acts: Recording) -> SparseAutoencoder:
    return fit_dictionary(acts, num_workers=0, **SMALL, **QUIET)


def test_every_name_is_there_and_no_other() -> None:
    assert set(saev._PUBLIC) == NAMES <= set(dir(saev))
    for name in NAMES:
        assert getattr(saev, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = saev.no_such_name


def test_importing_saev_takes_no_time() -> None:
    code = "import time; t = time.process_time(); import saev; print(time.process_time() - t)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.1


FUNCTIONS = [
    getattr(saev, name) for name in sorted(NAMES) if inspect.isfunction(getattr(saev, name))
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_arguments_are_plain_and_documented(function) -> None:
    for name, parameter in inspect.signature(function).parameters.items():
        assert "DictConfig" not in str(parameter.annotation)
        assert f"{name}:" in function.__doc__ or f"{name}, " in function.__doc__, name


@pytest.mark.parametrize(
    ("function", "nodes"),
    [
        (record_activations, [("train", "record"), ("train", "tokens")]),
        (fit_dictionary, [("trainer/default",), ("data/tars",), ("train", "tokens")]),
        (evaluate_dictionary, [("evaluate", "evaluation")]),
        (encode_images, [("evaluate", "evaluation")]),
        (run_experiment, [("intervene", "intervention")]),
    ],
)
def test_defaults_are_the_commands(function, nodes) -> None:
    values = {key: value for node in nodes for key, value in defaults(*node).items()}
    shared = {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if name in values and parameter.default is not inspect.Parameter.empty
    }
    assert len(shared) >= 3
    assert shared == {name: values[name] for name in shared}


def test_a_recording_says_what_it_is_and_is_found_again(acts, micro, scenes) -> None:
    assert "patch tokens of width 128, micro block 4, scenes" in repr(acts)
    again = record_activations(micro, scenes, root=acts.path.parent, num_workers=0, **QUIET)
    assert again.path == acts.path


def test_settings_reach_the_model(acts, tmp_path: Path) -> None:
    sae = fit_dictionary(
        acts, model="batch_topk", num_workers=0, **SMALL, learning_rate={"warmup_steps": 1},
        optimizer={"lr": 2e-3}, out_dir=tmp_path / "sae", **QUIET,
    )  # fmt: skip
    assert (sae.cfg.activation, sae.cfg.k, sae.cfg.d_sae) == ("batch_topk", 4, 256)
    rate = sae.cfg.recipe["learning_rate"]
    assert (rate["warmup_steps"], rate["decay_fraction"]) == (1, 0.25)
    assert json.loads((tmp_path / "sae" / "config.json").read_text())["images"]["kind"] == "scenes"
    assert float(sae.threshold) > 0


def test_a_baseline_is_fitted(acts) -> None:
    sae = fit_dictionary(acts, model="pca", k=4, num_workers=0, batch_size=128,
                         reservoir_tokens=256, **QUIET)  # fmt: skip
    assert sae.cfg.d_sae == 256 and sae.cfg.recipe == {"baseline": "pca"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"model": "probe"}, ("model='probe'", "topk", "pca")),
        ({"kk": 3}, ("no setting kk", "expansion")),
        ({"max_norm": -1.0}, ("max_norm=-1.0",)),
        ({"k": 10_000}, ("model.k must not exceed", "10000")),
        ({"model": "relu"}, ("model.k has no effect",)),
    ],
)
def test_what_a_fit_cannot_do_is_said(acts, given, words) -> None:
    with pytest.raises(ValueError) as caught:
        fit_dictionary(acts, num_workers=0, **(SMALL | given), **QUIET)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16", "memmap"])
def test_a_plain_array_is_enough(kind: str, tmp_path: Path) -> None:
    rows = torch.randn(700, 16, generator=torch.Generator().manual_seed(0))
    given = {"float32": rows.numpy(), "float16": rows.half().numpy(), "bfloat16": rows.bfloat16()}
    if kind == "memmap":
        np.save(tmp_path / "rows.npy", rows.numpy())
        given["memmap"] = np.load(tmp_path / "rows.npy", mmap_mode="r")
    once, twice = (
        fit_dictionary(given[kind], k=4, d_sae=32, max_steps=5, batch_size=64, **QUIET)
        for _ in range(2)
    )
    assert torch.equal(once.W_dec, twice.W_dec)
    assert once.encode(rows).shape == (700, 32) and once.cfg.backbone is None
    if kind in ("float32", "memmap"):
        assert torch.allclose(once.mean, rows.mean(0), atol=0.1)
    if kind == "memmap":
        same = fit_dictionary(given["float32"], k=4, d_sae=32, max_steps=5, batch_size=64, **QUIET)
        assert torch.equal(once.W_dec, same.W_dec)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (torch.ones(8), "shape"),
        (torch.ones(8, 4, dtype=torch.long), "floating-point"),
        (torch.full((200, 4), float("nan")), "not finite"),
        (torch.ones(200, 4), "equal"),
        (torch.randn(20, 4), "fewer than a batch"),
    ],
)
def test_arrays_that_nothing_can_be_learned_from(rows, words) -> None:
    with pytest.raises(UserError, match=words):
        fit_dictionary(rows, k=1, d_sae=4, max_steps=1, batch_size=64, **QUIET)


def test_the_generators_of_the_user_stay_where_they_are(acts) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit_dictionary(acts, num_workers=0, **SMALL, **QUIET)
    assert torch.equal(torch.rand(3), expected)


def test_a_model_object_of_the_users_goes_all_the_way(tmp_path: Path) -> None:
    model = timm.create_model(
        "vit_tiny_patch16_224", embed_dim=32, depth=3, num_heads=2, img_size=48, num_classes=5
    )
    scenes = ScenesImages(n_images=30, val_fraction=0.4, size=48)
    acts = record_activations(model, scenes, layer=1, root=tmp_path, num_workers=0, **QUIET)
    sae = fit_dictionary(acts, k=2, d_sae=24, max_steps=3, batch_size=32, reservoir_tokens=64,
                         num_workers=0, out_dir=tmp_path / "sae", **QUIET)  # fmt: skip
    assert sae.cfg.backbone is not None and sae.cfg.backbone["weights"]["kind"] == "object"
    opened, backbone = open_dictionary(tmp_path / "sae", backbone=model)
    steered = Steering.of(opened, backbone, edits.add(latent=3, code=1.0))
    assert steered([scenes.load(scenes.items[0])]).logits.shape == (1, 5)


def test_evaluation_and_codes(sae, micro, scenes) -> None:
    evaluation = evaluate_dictionary(sae, scenes, backbone=micro, num_workers=0, **QUIET)
    assert repr(evaluation).startswith("Evaluation(") and len(repr(evaluation)) < 200
    assert {"firing_frequency", "latents_random"} <= set(evaluation.figures)
    shown = evaluation.figures["firing_frequency"]._repr_png_()  # type: ignore[attr-defined]
    assert shown.startswith(b"\x89PNG")
    table = evaluation.to_frame()
    assert table.loc["explained_variance", "val"] == evaluation.metrics["val/explained_variance"]
    assert table.loc["kl", "reconstructed"] == evaluation.metrics["fidelity/kl/reconstructed"]
    encoded = encode_images(sae, scenes, split="heldout", backbone=micro, num_workers=0, **QUIET)
    pictures = [scenes.load(item) for item in scenes.split("heldout")]
    of_list = encode_images(sae, pictures, backbone=micro, **QUIET)
    assert np.array_equal(encoded.codes.toarray(), of_list.codes.toarray())
    assert encoded.image_ids == [item.image_id for item in scenes.split("heldout")]
    pixels = micro.transform(pictures[0])[None]
    x = micro.tap(pixels, [4])[4][0, micro.token_indices("patch")]
    expected = sae.encode(x) * sae.is_normal(x)[:, None]
    assert np.allclose(encoded.of(0), expected.numpy(), atol=1e-5)
    assert np.array_equal(encoded.per_image()[0], encoded.of(0).max(0))
    rows = encoded.to_frame()
    assert len(rows) == encoded.codes.nnz and len(repr(encoded)) < 120
    one = rows.iloc[0]
    assert encoded.of(str(one.image_id))[one.token, one.latent] == one.code
    assert encoded.positions == micro.token_indices("patch").tolist()
    assert set(encoded.token_names) == {"patch"}
    with pytest.raises(UserError, match="no images"):
        encode_images(sae, [], backbone=micro, **QUIET)


@pytest.mark.slow
def test_description_and_comparison(sae, micro, scenes, tmp_path: Path) -> None:
    atlas = describe_dictionary(
        sae, scenes, backbone=micro, out_dir=tmp_path / "atlas", pages=False, baseline_images=0,
        n_permutations=19, n_map_permutations=5, num_workers=0, naming={"proposers": ["concept"]},
        **QUIET,
    )  # fmt: skip
    assert isinstance(atlas, Atlas) and len(atlas.latents) == sae.cfg.d_sae
    assert "Atlas(256 latents" in repr(atlas)
    found = compare_dictionaries(
        {"one": sae, "two": sae}, scenes, backbones=[micro, micro], codes_dir=tmp_path / "codes",
        num_workers=0, n_permutations=19, n_map_permutations=5, n_bootstrap=20, n_drives=0, **QUIET,
    )  # fmt: skip
    assert repr(found) == "Comparison(one (256), two (256) on 24 images)"
    own = found.tables.matches.query("sae_a == 'one'")
    alive = own.dropna(subset=["correlation"])
    assert (alive.correlation > 0.999).all()
    figures = found.write(tmp_path / "comparison", page=False)
    assert {path.stem for path in figures} == set(found.figures())
    with pytest.raises(UserError, match="two or more"):
        compare_dictionaries([sae], scenes, **QUIET)
    with pytest.raises(UserError, match="no setting n_imags"):
        describe_dictionary(sae, scenes, backbone=micro, n_imags=3, **QUIET)


@pytest.mark.slow
def test_an_experiment(sae, micro, tmp_path: Path) -> None:
    scenes = ScenesImages(n_images=120, val_fraction=0.5)
    asked = {
        "concept": ["texture/stripes"], "draws": 19, "directions": 4, "untrained": 1, "shuffles": 1,
        "alpha": 0.2,
        "support": {"n_discovery_units": 5, "n_test_units": 5},
    }  # fmt: skip
    results = [
        run_experiment(
            one, sae, "attributes", scenes, backbone=micro, num_workers=0, **more, **QUIET
        )
        for one, more in (
            (asked, {"out_dir": tmp_path / "report"}),
            (Hypothesis.from_dict(asked, "asked"), {}),
        )
    ]
    first, second = (result.to_frame() for result in results)
    assert first.equals(second) and list(first.concept) == ["texture/stripes"]
    assert "1 hypotheses" in repr(results[0])
    written = json.loads((tmp_path / "report" / "verdict.json").read_text())
    assert written[0]["effect"] == first.effect[0]
    assert (tmp_path / "report" / "index.html").is_file()
    with pytest.raises(UserError, match="no class"):
        run_experiment({"concept": ["texture/none such"]}, sae, "attributes", scenes,
                       backbone=micro, num_workers=0, **QUIET)  # fmt: skip


@pytest.mark.parametrize("bars", [False, True])
def test_bars_can_be_switched_off(bars: bool, sae, micro, scenes, acts, monkeypatch) -> None:
    shown: list[bool] = []

    def started(self) -> None:
        shown.append(not self.disable)

    monkeypatch.setattr("rich.progress.Progress.start", started)
    encode_images(sae, scenes, n_images=2, backbone=micro, num_workers=0, progress=bars)
    evaluate_dictionary(sae, scenes, backbone=micro, n_images=2, num_workers=0, figures=False,
                        progress=bars)  # fmt: skip
    assert len(shown) >= 2 and set(shown) == {bars}


def test_images_are_named_in_three_ways(tmp_path: Path) -> None:
    from saev.sources import open_images

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert open_images(tmp_path).items[0].path == "a.png"
    assert open_images("scenes", n_images=3).name == "scenes"
    source = ScenesImages(n_images=2)
    assert open_images(source) is source
    for wrong, words in (("nowhere", "neither a folder nor"), (source, "already there")):
        with pytest.raises(UserError, match=words):
            open_images(wrong, **({"n_images": 1} if wrong is source else {}))


@pytest.mark.slow
def test_a_fit_from_python_is_the_commands_bit_for_bit(tmp_path: Path) -> None:
    """The same recording, the same defaults, the same seed: the same dictionary."""
    short = {"max_steps": 6, "batch_size": 512, "reservoir_tokens": 4096}
    command = [
        sys.executable, "-m", "saev.train", f"paths.outputs={tmp_path}", "logger=none",
        f"hydra.run.dir={tmp_path / 'run'}", "images.n_images=60", "trainer.max_steps=6",
        "trainer.val_check_interval=6", "data.batch_size=512", "data.reservoir_tokens=4096",
        "evaluation.fidelity=false", "evaluation.figures=false",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    acts = record_activations(
        "micro", ScenesImages(n_images=60), root=tmp_path / "activations", **QUIET
    )
    assert len(list((tmp_path / "activations").iterdir())) == 1
    sae = fit_dictionary(acts, **short, **QUIET)
    expected = SparseAutoencoder.from_pretrained(tmp_path / "run" / "sae")
    assert sae.cfg == expected.cfg
    for name, tensor in expected.state_dict().items():
        assert torch.equal(sae.state_dict()[name], tensor), name
