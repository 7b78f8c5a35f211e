"""The explorer's answers: what fires, how unusual it is, what an edit does, what is kept of it."""

import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from datamodules.images import FolderImages, ScenesImages
from saev import attribute
from saev.backbones import Backbone, load_backbone
from saev.errors import UserError
from saev.exploration.explorer import Explorer
from saev.exploration.hypothesis_run import read_text
from saev.exploration.known_verdicts import read_rungs
from saev.exploration.view_state import ViewState
from saev.heads import backbone_identity
from saev.intervention.hypothesis import Hypothesis
from saev.sae import SAEConfig, SparseAutoencoder

SET = {"kind": "set", "scale": -1.0}


@pytest.fixture
def key(explorer: Explorer) -> str:
    return explorer.gallery[0].key


def first(explorer: Explorer, key: str) -> int:
    return explorer.look(key, None, n=1)[0].latent


# --- looking ------------------------------------------------------------------------------------


def test_the_gallery_is_held_out_and_small(explorer: Explorer) -> None:
    held_out = {item.image_id for item in explorer.setting.source.split("heldout")}
    assert 1 <= len(explorer.gallery) <= 24 and explorer.seen <= held_out
    assert all(max(one.thumbnail.size) <= 96 for one in explorer.gallery)
    assert {one.title for one in explorer.gallery} <= set(explorer.setting.source.class_names or [])


def test_rows_say_what_the_codes_say(explorer: Explorer, key: str) -> None:
    patches = [13, 14, 26]
    rows = explorer.look(key, patches, n=50)
    maps = {row.latent: explorer.heatmap(key, row.latent).ravel() for row in rows}
    assert [row.activation for row in rows] == sorted((r.activation for r in rows), reverse=True)
    stats = explorer.start.stats
    for row in rows:
        own = maps[row.latent][patches]
        assert row.activation == pytest.approx(own.max(), rel=1e-6)
        assert row.n_patches == (own > 0).sum() > 0
        assert row.rate == stats.rate[row.latent]
        if row.rate > 0:
            expected = math.log(row.n_patches / 3 / row.rate)
            assert row.surprise == pytest.approx(expected, rel=1e-6)
            assert 0 <= row.percentile <= 100
    fired = [k for k in range(explorer.d_sae) if explorer.heatmap(key, k).ravel()[patches].any()]
    assert {row.latent for row in rows} == set(fired)


def test_a_percentile_is_the_share_of_codes_that_are_no_larger(explorer: Explorer) -> None:
    """The largest code of a start-up image is at 100 %; half of the codes are below the median."""
    start, latent = explorer.start, int(explorer.start.stats.alive[0])
    codes = start.codes.value[start.codes.indptr[latent] : start.codes.indptr[latent + 1]]
    asked = np.array([codes.max(), np.median(codes), 0.0])
    found = start.percentile(np.full(3, latent), asked)
    expected = [100 * (codes <= value * (1 + 1e-5)).mean() for value in asked]
    np.testing.assert_allclose(found, expected)
    assert found[0] == 100 and found[2] == 0


@pytest.mark.parametrize("sort", ["surprise", "percentile"])
def test_rows_can_be_sorted_otherwise(explorer: Explorer, key: str, sort: str) -> None:
    values = [getattr(row, sort) for row in explorer.look(key, None, n=20, sort=sort)]
    assert values == sorted(values, reverse=True)


def test_exemplars_are_where_the_latent_is_strongest(explorer: Explorer, key: str) -> None:
    latent = first(explorer, key)
    shown = explorer.exemplars(latent, 3)
    assert len(shown) == 3 and shown[0].activation >= shown[1].activation >= shown[2].activation
    for one in shown:
        codes = explorer.heatmap(one.key, latent).ravel()
        assert codes.max() == pytest.approx(one.activation, rel=1e-4)
        assert codes[one.patch] == codes.max()
        assert one.crop.size == (112, 112)
    assert shown[0].activation == pytest.approx(
        float(explorer.start.stats.largest[latent]), rel=1e-4
    )


def test_the_causes_of_a_latent_are_those_of_the_library(explorer: Explorer, key: str) -> None:
    latent = first(explorer, key)
    found = explorer.attribution(key, latent)
    setting = explorer.setting
    expected = attribute(setting.sae, setting.backbone, explorer.pictures.pixels(key), latent)
    torch.testing.assert_close(found.patches, expected.patches)
    assert found.patches.shape == explorer.grid and found.pixels.shape == (96, 96)
    assert explorer.attribution(key, latent) is found
    with pytest.raises(UserError):
        explorer.attribution(key, 96)
    silent = next(k for k in range(96) if not explorer.heatmap(key, k).any())
    with pytest.raises(UserError):
        explorer.attribution(key, silent)


# --- editing ------------------------------------------------------------------------------------


def test_an_edit_of_marked_patches_leaves_other_streams_alone(explorer: Explorer, key: str) -> None:
    latent = first(explorer, key)
    everywhere = explorer.edit(key, [{**SET, "latents": [latent]}])
    marked = explorer.edit(key, [{**SET, "latents": [latent]}], [3, 4])
    assert marked.n_tokens <= 2 < everywhere.n_tokens
    inside = explorer.edit(key, [{**SET, "latents": [latent], "where": "mask"}], [3, 4])
    outside = explorer.edit(key, [{**SET, "latents": [latent], "where": "off_mask"}], [3, 4])
    assert inside.n_tokens == marked.n_tokens
    assert inside.n_tokens + outside.n_tokens == everywhere.n_tokens
    assert inside.change == pytest.approx(marked.change, abs=1e-7)


def test_an_edit_that_changes_no_code_exceeds_nothing(explorer: Explorer, key: str) -> None:
    latent = first(explorer, key)
    outcome = explorer.edit(key, [{"kind": "scale", "latents": [latent], "factor": 1.0}])
    assert outcome.arms["selected"].change < 1e-6 and outcome.n_tokens == 0
    assert not any(outcome.exceeds.values())


def test_probabilities_and_maps_belong_to_the_target(explorer: Explorer, key: str) -> None:
    latent = first(explorer, key)
    outcome = explorer.edit(key, [{**SET, "latents": [latent]}], target="shape/star")
    arm = outcome.arms["selected"]
    assert outcome.classes[0] == "shape/none" and set(arm.probabilities) == set(outcome.classes)
    assert sum(arm.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert arm.class_map is not None and arm.class_map.shape == explorer.grid
    column = explorer.setting.readout.column("shape/star")
    before = outcome.arms["before"].all_probabilities
    assert arm.all_probabilities is not None and before is not None
    fall = (arm.all_probabilities - before)[:, column].mean()
    assert arm.target_change == pytest.approx(fall, abs=1e-6)
    assert outcome.to_dict()["arms"]["selected"]["class_map"] == arm.class_map.tolist()


@pytest.mark.parametrize(
    ("edits", "patches", "said"),
    [
        ([], None, "edits"),
        ([{**SET, "latents": [96]}], None, "there is no latent 96"),
        ([{**SET, "latents": [-1]}], None, "edits"),
        ([{**SET, "latents": [0], "where": {"patches": [144]}}], None, "there is no patch 144"),
        ([{**SET, "latents": [0], "where": {"fires": 99}}], None, "there is no latent 99"),
        ([{**SET, "latents": [0], "where": "mask"}], None, "needs marked patches"),
        ([{**SET, "latents": [0]}], [144], "there is no patch 144"),
        ([{**SET, "latents": [0]}], [-1], "there is no patch -1"),
        ([{**SET, "latents": [0]}], [True], "there is no patch True"),
        ([{"kind": "swap", "latents": [0], "source": "x"}], None, "edits"),
    ],
)
def test_edits_that_do_not_fit_are_refused(explorer: Explorer, key, edits, patches, said) -> None:
    with pytest.raises(UserError, match=said):
        explorer.edit(key, edits, patches)


def test_other_questions_that_do_not_fit_are_refused(explorer: Explorer, key: str) -> None:
    for ask in (
        lambda: explorer.heatmap(key, 96),
        lambda: explorer.exemplars(-1),
        lambda: explorer.look(key, [10_000]),
        lambda: explorer.look(key, None, sort="name"),
        lambda: explorer.edit(key, [{**SET, "latents": [first(explorer, key)]}], target="shape/dog"),
        lambda: explorer.edit(key, [{**SET, "latents": [first(explorer, key)]}], classes=["cat", "dog"]),
        lambda: explorer.search(text="star"),
        lambda: explorer.search(concept="shape/dog"),
        lambda: explorer.search(like=3, concept="shape/star"),
    ):  # fmt: skip
        with pytest.raises(UserError):
            ask()


def test_many_users_get_what_they_would_get_alone(explorer: Explorer) -> None:
    asked = [
        (one.key, first(explorer, one.key), scale)
        for one in explorer.gallery[:4]
        for scale in (-1.0, 3.0)
    ]
    alone = [explorer.edit(k, [{**SET, "latents": [n], "scale": s}]).change for k, n, s in asked]
    together: dict[int, dict[str, float]] = {}

    def ask(number: int) -> None:
        key, latent, scale = asked[number]
        for _ in range(3):
            explorer.look(key, [number])
            found = explorer.edit(key, [{**SET, "latents": [latent], "scale": scale}])
            together[number] = found.change

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[number] for number in range(len(asked))] == alone


def test_causes_of_several_people_are_those_of_each_alone(explorer: Explorer) -> None:
    """Maps and their curves share one copy of the model: two at once would hook it both."""
    asked = [(one.key, first(explorer, one.key)) for one in explorer.gallery[4:8]]
    with ThreadPoolExecutor(4) as pool:
        maps = [pool.submit(explorer.attribution, *one) for one in asked]
        curves = [pool.submit(explorer.insertion_deletion, *one) for one in asked]
    for one, shown, scored in zip(asked, maps, curves, strict=True):
        setting, pixels = explorer.setting, explorer.pictures.pixels(one[0])
        alone = attribute(setting.sae, setting.backbone, pixels, one[1])
        torch.testing.assert_close(shown.result().patches, alone.patches)
        expected = alone.insertion_deletion().attribution
        torch.testing.assert_close(scored.result().attribution.insertion, expected.insertion)


def test_a_copy_of_the_model_is_made_without_others_hooks(explorer: Explorer) -> None:
    """A hook of somebody's pass, copied with the model, would end every pass of the copy."""
    blocks, hooked, done = explorer.setting.backbone.trunk.blocks, threading.Event(), []

    def pass_of_another() -> None:
        with explorer.answers.lock:
            handle = blocks[0].register_forward_hook(lambda *_: None)
            hooked.set()
            time.sleep(0.3)
            handle.remove()
            done.append(True)

    other = threading.Thread(target=pass_of_another)
    other.start()
    hooked.wait()
    copied = explorer.answers.copied_backbone()
    assert done
    other.join()
    assert not any(block._forward_hooks for block in copied.trunk.blocks)


# --- searching and keeping ----------------------------------------------------------------------


def test_search_by_concept_patches_and_likeness(explorer: Explorer, key: str) -> None:
    best = explorer.search(concept="colour/blue", n=5)
    assert [row.score for row in best] == sorted((row.score for row in best), reverse=True)
    latent = best[0].latent
    alike = explorer.search(like=latent, n=3)
    atoms = torch.nn.functional.normalize(explorer.setting.sae.W_dec, dim=-1)
    assert alike[0].score == pytest.approx(float(atoms[alike[0].latent] @ atoms[latent]), abs=1e-5)
    assert latent not in [row.latent for row in alike]
    found = explorer.search(patches=(key, [13, 14]), n=5)
    for row in found:
        codes = explorer.heatmap(key, row.latent).ravel()
        assert row.score == pytest.approx(codes[[13, 14]].sum(), rel=1e-5) and row.rate <= 0.1


def test_names_of_an_atlas_are_shown_and_searched(
    explorer: Explorer, key: str, sae_dir: Path, tmp_path: Path
) -> None:
    latent = first(explorer, key)
    folder = tmp_path / "latents"
    folder.mkdir()
    every = pd.DataFrame(
        {"latent": range(96), "name": None, "name_confidence": 0.0, "rate_image": 0.5}
    )
    every.loc[latent, ["name", "name_confidence"]] = ["blue edge", 0.8]
    tables = {
        "latents": every,
        "concepts": pd.DataFrame(
            {"latent": [3, 4], "concept": ["sky", "sky"], "split": ["test", "test"], "f1": [0.4, 0.9],
             "source": ["m", "m"], "kind": ["k", "k"], "rank_f1": [1, 0]}
        ),
        "exemplars": pd.DataFrame({"latent": [0], "role": ["max"], "rank": [0], "image_id": ["a"]}),
        "names": pd.DataFrame(
            {"latent": [7], "proposer": ["p"], "rank": [0], "name": ["blue"], "confidence": [0.3]}
        ),
        "coactivation": pd.DataFrame({"latent": [0], "kind": ["atom"], "rank": [0], "neighbour": [1]}),
    }  # fmt: skip
    for name, table in tables.items():
        table.to_parquet(folder / f"{name}.parquet")
    (folder / "images.json").write_text('[{"image_id": "a"}]')
    (folder / "atlas.json").write_text('{"grid": [12, 12]}')
    source = explorer.setting.source
    opened = Explorer.open(sae_dir, atlas=tmp_path, images=source, n_images=40, device="cpu")
    assert [(r.name, r.confidence) for r in opened.look(key, None, n=1)] == [("blue edge", 0.8)]
    assert [r.latent for r in opened.search(text="blue")] == [latent, 7]
    assert [(r.latent, r.score) for r in opened.search(concept="sky")] == [(4, 0.9), (3, 0.4)]
    assert opened.search(concept="colour/blue", n=1), "a class of the head that the atlas lacks"
    every.head(50).to_parquet(folder / "latents.parquet")
    with pytest.raises(UserError, match="describes 50 latents"):
        Explorer.open(sae_dir, atlas=tmp_path, images=source, n_images=8, device="cpu")


def test_the_python_of_an_edit_repeats_it(explorer: Explorer, key: str, sae_dir: Path) -> None:
    latents = [row.latent for row in explorer.look(key, None, n=2)]
    edits = (
        {"kind": "set", "latents": latents, "scale": -1.5},
        {"kind": "scale", "latents": latents[:1], "factor": 2.0, "where": {"fires": latents[1]}},
        {"kind": "add", "latents": latents[1:], "scale": 1.0, "where": "mask"},
        {"kind": "clamp", "latents": latents[1:], "low": -1.0, "high": 0.2},
    )
    for state in (
        ViewState(key=key, patches=(5, 6, 7), edits=edits, where="patches"),
        ViewState(key=key, patches=(5, 6, 7), edits=edits[:2]),
    ):
        names: dict = {}
        exec(state.to_python(explorer), names)
        outcome = explorer.edit(key, state.edits, state.edited_patches)
        np.testing.assert_allclose(
            names["probabilities"]["after"].numpy(),
            outcome.arms["selected"].all_probabilities,
            atol=1e-5,
        )


def test_a_hypothesis_is_about_images_that_nobody_saw(explorer: Explorer, key: str) -> None:
    latent = first(explorer, key)
    edits = ({**SET, "latents": [latent]},)
    text = explorer.hypothesis(ViewState(key=key, edits=edits, patches=(1,), where="patches"))
    content = yaml.safe_load(text)
    file = Hypothesis.from_dict(content, "it")
    assert content["latents"] == [latent] and file.edit["where"] == "all"
    assert not set(content["images"]["test"]) & explorer.seen
    assert file.concept in explorer.concepts
    command = text.splitlines()[1]
    assert f"sae={explorer.sae} head=attributes images=scenes images.size=96" in command
    assert "images.n_images=160 images.val_fraction=0.5" in command
    different = ({**SET, "latents": [latent]}, {"kind": "ablate", "latents": [latent]})
    with pytest.raises(UserError, match="one edit"):
        explorer.hypothesis(ViewState(key=key, edits=different))
    code = {"kind": "set", "latents": [latent], "scale": 2.0, "unit": "code"}
    scale = yaml.safe_load(explorer.hypothesis(ViewState(key=key, edits=(code,))))["edit"]["scale"]
    assert scale == pytest.approx(2.0 / explorer.start.stats.largest[latent])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"placebo": 200}, "placebo=200"),
        ({"calibration": 1}, "calibration=1"),
        ({"concept": "all", "latents": None}, "concepts"),
        ({"draws": 1000}, "draws"),
        ({"untrained": 100}, "untrained=100"),
        ({"edit": {"kind": "swap"}}, "kind"),
        ({"head": "/etc/passwd"}, "unknown key"),
    ],
)
def test_a_page_does_not_run_what_takes_hours(change: dict, said: str) -> None:
    content = {"concept": "colour/blue", "latents": [1], **change}
    with pytest.raises(UserError, match=said):
        read_text(yaml.safe_dump(content))


@pytest.mark.parametrize(
    "text", ["- a\n- b", "a: [", "!!python/object/apply:os.system ['true']", "x" * (1 << 21)]
)
def test_a_text_that_is_no_hypothesis_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        read_text(text)


@pytest.mark.slow
def test_a_hypothesis_runs_with_progress_and_leaves_a_verdict(
    explorer: Explorer, key: str, tmp_path: Path
) -> None:
    edits = ({**SET, "latents": [explorer.search(concept="colour/blue", n=1)[0].latent]},)
    text = explorer.hypothesis(ViewState(key=key, edits=edits, target="colour/blue"))
    content = yaml.safe_load(text) | {"support": {"n_test_units": 20, "n_discovery_units": 10}}
    said: list[tuple[float, str]] = []
    page = explorer.run_hypothesis(
        yaml.safe_dump(content), tmp_path, lambda share, what: said.append((share, what))
    )
    assert page == tmp_path / "report" / "index.html" and "colour/blue" in page.read_text()
    shares = [share for share, _ in said]
    assert shares == sorted(shares) and shares[-1] == 1
    assert {"discovery images", "test images", "interventions"} <= {what for _, what in said}
    (latent,) = edits[0]["latents"]
    assert explorer.rungs[latent] in ("none", "effect", "learned", "selective")
    assert read_rungs(tmp_path, explorer.setting.sae) == {latent: explorer.rungs[latent]}
    assert (tmp_path / "report" / "hypothesis.yaml").exists()


def test_only_one_hypothesis_is_tested_at_a_time(explorer: Explorer, tmp_path: Path) -> None:
    with explorer._testing, pytest.raises(UserError, match="another hypothesis"):
        explorer.run_hypothesis("concept: colour/blue\nlatents: [1]", tmp_path, lambda *_: None)


# --- other heads --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(
    tmp_path_factory: pytest.TempPathFactory, clip_sae: tuple[SparseAutoencoder, Backbone]
) -> Explorer:
    """The small CLIP on drawn scenes saved without their labels."""
    root = tmp_path_factory.mktemp("photos")
    scenes = ScenesImages(n_images=12, seed=2)
    for number, item in enumerate(scenes.items):
        scenes.load(item).save(root / f"{number}.png")
    sae, backbone = clip_sae
    source = FolderImages(roots=[str(root)], labels="none", val_fraction=0.4)
    return Explorer.open(sae, images=source, backbone=backbone, n_images=6, device="cpu")


def test_without_a_head_one_looks_and_is_told_what_is_missing(clip: Explorer) -> None:
    key = clip.gallery[0].key
    assert clip.readout is None and clip.concepts == [] and clip.look(key, None)
    with pytest.raises(UserError, match="no head"):
        clip.edit(key, [{"kind": "ablate", "latents": [first(clip, key)]}])
    with pytest.raises(UserError, match="no head"):
        clip.run_hypothesis("concept: x", ".", lambda *_: None)


def test_typed_classes_have_zero_shot_probabilities(clip: Explorer) -> None:
    key, names = clip.gallery[0].key, ["a star", "a heart", "a ring"]
    edits = [{"kind": "set", "latents": [first(clip, key)], "scale": 10.0}]
    outcome = clip.edit(key, edits, classes=names)
    from saev.heads.own import make_head

    head = make_head(clip.setting.backbone, names, prefer="zero_shot")
    with torch.no_grad():
        output = clip.setting.backbone(clip.pictures.pixels(key)[None])
    expected = head(output).softmax(-1)[0]
    before = outcome.arms["before"].all_probabilities
    np.testing.assert_allclose(before[0], expected.numpy(), atol=1e-5)
    assert outcome.per == "image" and set(outcome.arms["selected"].probabilities) == set(names)
    assert (
        outcome.arms["diffmean"].absent is not None
        and "labelled" in outcome.arms["diffmean"].absent
    )
    assert set(outcome.exceeds) == {"random_latent"}
    for wrong in (["one"], ["a", "a"], ["a", " "], ["x" * 300, "y"], [str(n) for n in range(200)]):
        with pytest.raises(UserError):
            clip.edit(key, edits, classes=wrong)
    with pytest.raises(UserError, match="typed classes"):
        clip.hypothesis(ViewState(key=key, edits=tuple(edits), classes=tuple(names)))


def test_text_finds_latents_whose_images_fit_it(clip: Explorer) -> None:
    rows = clip.search(text="a star", n=5)
    assert rows and [row.score for row in rows] == sorted((r.score for r in rows), reverse=True)
    with torch.no_grad():
        text = clip.answers.text_tower().class_weights(["a star"], ["{}"])[:, 0]
    images = torch.nn.functional.normalize(torch.from_numpy(clip.start.codes.embedding), dim=-1)
    fit = images @ text
    fit = (fit - fit.mean()) / fit.std()
    shown = clip.start.exemplars.of(rows[0].latent)
    weights = torch.tensor([one.value for one in shown])
    expected = (weights * fit[[one.image for one in shown]]).sum() / weights.sum()
    assert rows[0].score == pytest.approx(float(expected), abs=1e-4)


def test_a_classifier_answers_where_images_have_no_labels(tmp_path: Path) -> None:
    backbone = load_backbone(
        "timm", "vit_tiny_patch16_224", "random", image_size=32, layer=0,
        model_kwargs={"embed_dim": 32, "depth": 2, "num_heads": 1, "num_classes": 5},
    )  # fmt: skip
    cfg = SAEConfig(
        d_model=32, d_sae=64, activation="topk", k=4, layer=0, tokens={"which": "all"},
        backbone=backbone_identity(backbone),
    )  # fmt: skip
    sae = SparseAutoencoder(cfg, torch.Generator().manual_seed(0))
    scenes = ScenesImages(n_images=10)
    for number, item in enumerate(scenes.items):
        scenes.load(item).save(tmp_path / f"{number}.png")
    source = FolderImages(roots=[str(tmp_path)], labels="none", val_fraction=0.3)
    opened = Explorer.open(sae, images=source, backbone=backbone, n_images=6, device="cpu")
    key = opened.gallery[0].key
    outcome = opened.edit(key, [{"kind": "ablate", "latents": [first(opened, key)]}])
    assert opened.concepts == [f"class {number}" for number in range(5)]
    assert outcome.arms["untrained"].absent and outcome.arms["diffmean"].absent
    assert sum(outcome.arms["before"].probabilities.values()) == pytest.approx(1, abs=1e-5)


def test_things_that_do_not_belong_together_are_refused(sae_dir: Path, explorer: Explorer) -> None:
    with pytest.raises(UserError, match="head="):
        Explorer.open(sae_dir, head="/nowhere", images=explorer.setting.source)
    with pytest.raises(UserError, match="n_images=0"):
        Explorer.open(sae_dir, images=explorer.setting.source, n_images=0)
    with pytest.raises(UserError, match="holds no latents"):
        Explorer.open(sae_dir, atlas="/nowhere", images=explorer.setting.source)
