"""Controlled experiments on a toy whose truth is planted: six classes, each with its own latent.

The toy is a real backbone behind the real contract: patches are projected to 48 dimensions, where
every class has a direction; the dictionary has one latent per class and many random ones.
"""

import json
import math
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from datamodules.images.base import Found, ImageSource
from saev.backbones import Backbone
from saev.backbones.base import BackboneOutput, Trunk
from saev.backbones.transform import ImageTransform
from saev.errors import UserError
from saev.heads import Reading, TrainedHead, backbone_identity
from saev.intervention.arms import arms
from saev.intervention.arms.arms import ArmPlan
from saev.intervention.choose.effects import atom_effects, margin_gradients
from saev.intervention.experiment import run_setting
from saev.intervention.hypothesis import ARMS, HYPOTHESES_DIR, Hypothesis, read_hypothesis
from saev.intervention.judge.dose_curves import LEVELS
from saev.intervention.judge.verdict import Criteria, judge
from saev.intervention.readout import make_readout
from saev.intervention.replication import replicate
from saev.intervention.report.files import SUMMARY_COLUMNS, write_files
from saev.intervention.report.from_config import metrics_of
from saev.intervention.report.page import write_page, write_report
from saev.intervention.report.replication_page import write_replication
from saev.intervention.result import TRADEOFF_ARMS
from saev.intervention.setting import Setting
from saev.sae import SparseAutoencoder
from saev.sae.config import SAEConfig

WIDTH, SIDE, CELL, N_CLASSES, N_LATENTS = 48, 4, 4, 6, 260
CLASSES = ["circle", "square", "star", "heart", "cross", "ring"]
WEIGHTS = {"kind": "random", "source": "toy", "sha256": "0" * 64}


class Mix(nn.Module):
    """A residual block that mixes dimensions a little, so that the model's end is not its tap."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.1 * torch.tanh(self.linear(x))


class ToyTrunk(Trunk):
    width, grid, prefix, image_size = WIDTH, (SIDE, SIDE), ("class",), (SIDE * CELL, SIDE * CELL)

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(CELL * CELL * 3, WIDTH, bias=False)
        self.layers = nn.ModuleList([nn.Identity(), Mix()])

    @property
    def blocks(self):
        return list(self.layers)

    def forward(self, images: torch.Tensor) -> BackboneOutput:
        patches = nn.functional.unfold(images, CELL, stride=CELL).transpose(1, 2)
        x = torch.cat([torch.zeros(len(images), 1, WIDTH), self.embed(patches)], 1)
        for block in self.layers:
            x = block(x)
        return BackboneOutput(x, x[:, 1:].mean(1), None)


class ToyImages(ImageSource):
    """Quadrants of one class each; the label is the class of most patches."""

    kind = "toy"

    def __init__(self, n_images: int = 70, single: bool = False) -> None:
        super().__init__(n_images=None, val_fraction=0.0, on_error="raise", seed=0)
        self.name, self.class_names = "toy", CLASSES
        rng = np.random.default_rng(0)
        self.patterns = rng.uniform(-90, 90, (N_CLASSES, CELL, CELL, 3))
        self.classes = rng.integers(0, N_CLASSES, (n_images, 2, 2))
        if single:
            self.classes[:] = (np.arange(n_images) // 2 % N_CLASSES)[:, None, None]
        self.loaded: list[str] = []
        self._settle(
            Found(f"toy/{i:03d}", "train" if i % 2 else "test",
                  int(np.bincount(self.classes[i].ravel()).argmax()), None, 1)
            for i in range(n_images)
        )  # fmt: skip

    def options(self):
        return {}

    def _cells(self, item) -> np.ndarray:
        quadrants = self.classes[int(item.image_id[4:])]
        return quadrants.repeat(SIDE // 2, 0).repeat(SIDE // 2, 1)

    def load(self, item) -> Image.Image:
        self.loaded.append(item.image_id)
        rng = np.random.default_rng(int(item.image_id[4:]) + 1000)
        rows = [np.concatenate([self.patterns[c] for c in row], 1) for row in self._cells(item)]
        picture = 128 + np.concatenate(rows) + rng.normal(0, 60, (SIDE * CELL, SIDE * CELL, 3))
        return Image.fromarray(picture.clip(0, 255).astype(np.uint8))

    def mask(self, item) -> np.ndarray:
        return self._cells(item).repeat(CELL, 0).repeat(CELL, 1).astype(np.uint8)


def backbone() -> Backbone:
    torch.manual_seed(0)
    half = (0.5, 0.5, 0.5)
    transform = ImageTransform((SIDE * CELL, SIDE * CELL), half, half, "bilinear")
    return Backbone(
        ToyTrunk(), family="toy", name="toy", layer=0, transform=transform, weights=WEIGHTS, spec={}
    )


def directions(model: Backbone, source: ToyImages) -> torch.Tensor:
    """What each class adds to the stream."""
    patterns = torch.tensor(source.patterns / 127.5, dtype=torch.float32).permute(0, 3, 1, 2)
    with torch.no_grad():
        return model.trunk.embed(patterns.flatten(1))


def dictionary(means_cd: torch.Tensor, loud: bool = True, **changes) -> SparseAutoencoder:
    """Latent c answers to class c; the others are random, firing about as often and, if loud, as
    strongly."""
    cfg = SAEConfig(
        WIDTH, N_LATENTS, "relu", backbone={"name": "toy", "weights": WEIGHTS, "spec": {}},
        layer=0, tokens={"which": "patch"},
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    sae = SparseAutoencoder(replace(cfg, **changes), generator).eval().requires_grad_(False)
    random = torch.randn(N_LATENTS - N_CLASSES, WIDTH, generator=generator)
    random = random * means_cd.norm(dim=1).mean() / random.norm(dim=1, keepdim=True)
    atoms = torch.cat([means_cd, random])
    dual = torch.linalg.pinv(means_cd).T
    random_rows = random / random.square().sum(1, keepdim=True)
    sae.W_dec.copy_(atoms)
    random_bias = -0.25 + 0.15 * torch.randn(N_LATENTS - N_CLASSES, generator=generator)
    gain = torch.exp(float(loud) + 0.4 * torch.randn(N_LATENTS - N_CLASSES, generator=generator))
    random_rows, random_bias = random_rows * gain[:, None], random_bias * gain
    sae.W_enc.copy_(torch.cat([dual, random_rows]))
    sae.b_enc.copy_(torch.cat([torch.full((N_CLASSES,), -0.5), random_bias]))
    sae.b_enc[-1], sae.W_enc[-1] = -1.0, 0.0  # the last one is dead
    return sae


def head(model: Backbone, means_cd: torch.Tensor, features: str) -> TrainedHead:
    kind = "segmentation" if features == "patches" else "classification"
    reading = Reading.of(features, model)
    identity = backbone_identity(model)
    bias = -0.5 * means_cd.square().sum(1)
    return TrainedHead(kind, reading, CLASSES, identity, 8 * means_cd, 8 * bias)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("heads")


def setting(folder: Path, per: str = "patch", changes=None, **content) -> Setting:
    source, model = (
        ToyImages(n_images=110 if per == "image" else 70, single=per == "image"),
        backbone(),
    )
    means = directions(model, source)
    features = "patches" if per == "patch" else "pooled"
    head(model, means, features).save(folder / features)
    given = {
        "images": {"discovery": "train", "test": "test"},
        "directions": 20,
        "untrained": 2,
        "shuffles": 2,
        "support": {"n_discovery_units": 10, "n_test_units": 10},
        **content,
    }
    file = Hypothesis.from_dict(given, "toy.yaml")
    readout = make_readout(str(folder / features), model, source)
    sae = dictionary(means, **(changes or {}))
    return Setting(file, sae, model, readout, source, 16, 64, 0, torch.device("cpu"))


def run(one: Setting):
    return run_setting(one)


@pytest.fixture(scope="module")
def outcome(folder):
    return run(
        setting(
            folder,
            calibration=8,
            doses=[0, -0.5, -2],
            table={"n_latents": [1, 3], "scales": [-0.5, -1], "draws": 2},
            baselines=["raw_unit", "pca_direction", "gradcam_pixels"],
            tradeoff={"doses": [0.1, 0.25, 0.5, 2]},
            directions=79,  # a few of the toy's 48 dimensions hold most of what varies
        )
    )


@pytest.mark.slow
def test_every_planted_concept_is_supported(outcome):
    assert {v.concept: v.verdict for v in outcome.verdicts} == dict.fromkeys(CLASSES, "supported")
    for number, v in enumerate(outcome.verdicts):
        assert v.latents == [number] and v.n_draws == 119
        assert v.target_change > 0.9 and v.other_change < 0.1


@pytest.mark.slow
def test_a_result_introduces_itself_in_a_line(outcome):
    assert repr(outcome) == "ExperimentResult(6 hypotheses: 6 supported; 35 test images)"


@pytest.mark.slow
def test_what_shuffled_labels_choose_is_judged_test_by_test(outcome):
    found = outcome.calibration
    n = found.n_hypotheses - found.n_own - found.n_unmatched
    assert found.n_hypotheses == 48 and 0 < n < 48
    assert {rate.test for rate in found.rates} == {"random_latents", "images"} == {*found.p_values}
    for rate in found.rates:
        assert rate.n == n and rate.interval[0] <= rate.share <= rate.interval[1]


@pytest.mark.slow
def test_the_choice_is_tested_before_the_effect(outcome):
    """A latent that shuffled labels lead to by luck has the effect and not the fit."""
    assert all(v.p_selection == 1 / 120 for v in outcome.verdicts)
    evidence = {p.concept: outcome.evidence(p) for p in outcome.proposals}
    lucky = {concept: replace(one, p_selection=0.4) for concept, one in evidence.items()}
    for row in judge(lucky, {name: [0] for name in lucky}, Criteria(0.05, 0.25)):
        assert row.p <= 2 / 120 and row.verdict == "not_supported"
        assert "shuffled labels" in row.sentence


@pytest.mark.slow
def test_controls_are_as_long_as_the_edit(outcome):
    """Every arm of the same length adds as much at every token, at every dose."""
    p = outcome.proposals[0]
    batch = outcome.runner.batch(np.arange(4))
    acts = batch.encoded["sae"].acts

    def added(use):
        return (outcome.plan.jobs[use.key].steer(batch) - acts).norm(dim=-1)

    uses = [use for use in outcome.plan.uses if use.concept == p.concept and use.n_latents == 1]
    amounts = {use.amount for use in uses}
    assert amounts == {0.1, 0.25, 0.5, 1.0, 2.0}
    for amount in amounts:
        here = [use for use in uses if use.amount == amount and use.scale == -1]
        [length] = [added(use) for use in here if use.arm == "selected"][:1]
        assert length.max() > 0
        for arm in TRADEOFF_ARMS:
            assert any(use.arm == arm for use in here)
            for use in (use for use in here if use.arm == arm):
                torch.testing.assert_close(added(use), length, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_planted_latents_hold_every_rung_that_can_be_held(outcome):
    for v in outcome.verdicts:
        assert v.rungs["effect"].holds and v.rungs["learned"].holds
        assert v.rungs["learned"].interval[0] > 0.1
        assert {(row.arm, row.level) for row in v.tradeoff} == {
            (arm, level) for arm in TRADEOFF_ARMS for level in LEVELS
        }
        assert v.rung in ("learned", "selective")


def test_directions_of_the_covariance_are_not_the_edit_in_part(outcome):
    """Where the data varies most along the concept, unprojected draws would do half of its work."""
    plan, p = outcome.plan, outcome.proposals[0]
    own = torch.nn.functional.normalize(plan.towards(p.tried[0]), dim=0)
    drawn, used = plan.directions.random, plan.others(plan.directions.random, p.tried[0])
    assert (drawn["covariance_direction"] @ own).abs().max() > 0.2
    assert (used["covariance_direction"] @ own).abs().max() < 1e-5
    assert torch.equal(used["random_direction"], drawn["random_direction"])
    job = next(
        u.key
        for u in plan.uses
        if (u.concept, u.arm) == (p.concept, "covariance_direction") and u.tested
    )
    encoded = outcome.runner.batch(np.arange(4))
    moved = plan.jobs[job].steer(encoded) - encoded.encoded["sae"].acts
    assert moved.abs().max() > 0 and (moved @ own).abs().max() < 1e-3 * moved.norm(dim=-1).max()


@pytest.fixture(scope="module")
def placebo(folder):
    return run(setting(folder, placebo=210, power=20, untrained=1, tradeoff={"doses": [0.25, 2]}))


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a minute on an idle core
def test_no_test_errs_too_often_among_latents_that_nobody_chose(placebo):
    found = placebo.placebo
    assert found.n_hypotheses >= 200 and found.n_sets == 40
    assert found.exceeded == [] and all(not v.error_rates_exceeded for v in placebo.verdicts)
    assert len(found.rates) == 10 and all(rate.share <= 0.08 for rate in found.rates)
    chosen = {latent for p in placebo.proposals for latent in p.tried[0]}
    assert not chosen & {latent for latents in found.latents for latent in latents}


@pytest.mark.slow
def test_a_run_whose_matching_is_bad_says_so(folder, monkeypatch, tmp_path):
    """Random latents that are given hardly any dose and pass for ones of the same."""
    match = ArmPlan.match

    def badly(self, latents):
        found = match(self, latents)
        return replace(found, draw_sizes=np.tile(found.sizes, (len(found.draws), 1)))

    monkeypatch.setattr(ArmPlan, "match", badly)
    monkeypatch.setattr(arms, "rounded_dose", lambda largest: 0.01)
    found = run(setting(folder, placebo=40, power=0, untrained=1))
    assert "random_latents" in found.placebo.exceeded and not found.placebo.power
    assert all(v.error_rates_exceeded == found.placebo.exceeded for v in found.verdicts)
    write_page(replace(found, verdicts=found.verdicts[:1]), write_files(found, tmp_path), tmp_path)
    text = (tmp_path / "index.html").read_text()
    assert text.index("must not be relied on") < text.index("<figure>")
    assert (tmp_path / "figures" / "placebo.png").is_file()
    assert json.loads((tmp_path / "placebo.json").read_text())["exceeded"] == found.placebo.exceeded


@pytest.mark.slow
def test_latents_without_a_match_are_passed_over(folder):
    content = {"edit": {"kind": "ablate"}, "concept": ["star", "ring"], "max_ratio": 1.02}
    found = run(setting(folder, placebo=8, power=2, **content))
    assert found.placebo.n_unmatched > found.placebo.n_sets


@pytest.mark.slow
def test_placebo_latents_of_heads_that_answer_per_image(folder):
    content = {
        "images": {"discovery": "train", "test": "test", "n_other": 5}, "alpha": 0.4, "draws": 12,
        "concept": ["star", "ring"], "selector": {"by": "f1", "n": 2}, "directions": 4,
    }  # fmt: skip
    one = setting(folder, "image", **content, placebo=8, power=4)
    seen = []
    found = run_setting(one, lambda registered, _: seen.append(registered["placebo"]))
    assert found.placebo.n_hypotheses == 8 and [p.n for p in found.placebo.power] == [4] * 5
    assert all(latents in seen[0] for latents in found.placebo.latents)
    alone = run_setting(setting(folder, "image", **content))
    assert [v.effect for v in alone.verdicts] == [v.effect for v in found.verdicts]
    assert alone.placebo is None


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a minute on an idle core
def test_injected_effects_are_found_the_sooner_the_stronger_they_are(placebo):
    effects = [one.effect for one in placebo.placebo.power]
    assert (
        effects == sorted(effects) and effects[0] < 0.2 and effects[2] > 0.4 and effects[-1] > 0.9
    )
    weak, _, _, strong, _ = placebo.placebo.power
    assert weak.n == 20 and weak.n_latents == 10
    assert weak.share < 0.1 and strong.interval[0] > 0.5


@pytest.mark.slow
def test_the_identity_arm_changes_nothing_at_all(outcome):
    for use in outcome.plan.uses:
        if use.arm == "identity":
            for found, clean in zip(
                outcome.tallies[use.key], outcome.test.clean.tally, strict=True
            ):
                np.testing.assert_array_equal(found, clean)


@pytest.mark.slow
def test_wrong_tokens_spare_the_concept(outcome):
    effects = {}
    for use in outcome.plan.uses:
        if use.concept == "star" and use.arm in ("selected", "wrong_tokens") and use.tested:
            tally, clean = outcome.tallies[use.key], outcome.test.clean
            effects[use.arm] = outcome.question("star").effect(tally, clean)
    assert effects["wrong_tokens"] < 0.1 < 0.8 < effects["selected"]


def test_registered_before_any_test_image_is_read(folder):
    one = setting(folder, concept=CLASSES[:2])
    test_ids = {item.image_id for item in one.source.split("test")}
    seen = []

    def register(content, sha256):
        seen.append((sha256, set(one.source.loaded)))
        assert content["hypotheses"][0]["latents"] == {"1": [0]}

    found = run_setting(one, register)
    [(sha256, loaded)] = seen
    assert not loaded & test_ids and loaded
    assert sha256 == found.registered_sha256


@pytest.mark.slow
def test_every_test_image_is_tapped_once(folder, monkeypatch):
    one = setting(folder, concept=CLASSES[:2])
    tapped, resumed = [], []
    tap, resume = one.backbone.tap, one.backbone.resume
    monkeypatch.setattr(
        one.backbone, "tap", lambda x, layers: tapped.append(len(x)) or tap(x, layers)
    )
    monkeypatch.setattr(
        one.backbone, "resume", lambda x, *where: resumed.append(len(x)) or resume(x, *where)
    )
    found = run(one)
    assert sum(tapped) == len(one.source.items)
    n_passes = len(found.plan.jobs) * found.test.n_images
    assert sum(resumed) <= n_passes + 2 * found.test.n_images
    assert len(resumed) < n_passes / 16  # draws are stacked


@pytest.fixture(scope="module")
def report(outcome, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    summary = write_files(outcome, folder)
    write_page(replace(outcome, verdicts=outcome.verdicts[:2]), summary, folder)  # figures are slow
    return folder


@pytest.mark.slow
def test_files(outcome, report):
    verdicts = json.loads((report / "verdict.json").read_text())
    assert [v["concept"] for v in verdicts] == CLASSES
    for key in ("hypothesis", "concept", "verdict", "effect", "interval", "p", "q"):
        assert key in verdicts[0]
    summary = pd.read_csv(report / "summary.csv")
    assert tuple(summary.columns[:-1]) == SUMMARY_COLUMNS
    assert set(ARMS) <= set(summary.arm)
    assert set(summary.n_latents) == {1, 3} and {0.0, -0.5, -1.0, -2.0} == set(summary.scale)
    effects = pd.read_parquet(report / "effects.parquet")
    assert not effects.duplicated(
        ["hypothesis", "arm", "draw", "image", "n_latents", "scale", "amount"]
    ).any()
    assert len(effects) == len(outcome.plan.uses) * outcome.test.n_images
    formats = (Path(__file__).parents[2] / "docs/formats.md").read_text()
    assert all(f"`{name}`" in formats for name in effects.columns)
    row = effects[(effects.hypothesis == "star") & (effects.arm == "selected") & effects.tested]
    assert (row.target_changed == row.target_left).all() and (row.target_repaired == 0).all()
    share = row.target_changed.sum() / row.target_units.sum()
    told = summary[(summary.concept == "star") & (summary.arm == "selected")
                   & (summary.n_latents == 1) & (summary.scale == -1)
                   & (summary.amount == 1)]  # fmt: skip
    assert told.target_change.item() == pytest.approx(100 * share, abs=1e-3)


@pytest.mark.slow
def test_tradeoff_files(outcome, report):
    """Each table says what verdicts and the result say, in per cent."""
    table = pd.read_csv(report / "tradeoff.csv")
    assert len(table) == N_CLASSES * len(TRADEOFF_ARMS) * len(LEVELS)
    for v in outcome.verdicts[:2]:
        rows = table[table.concept == v.concept]
        for row, told in zip(v.tradeoff, rows.itertuples(), strict=True):
            assert (told.arm, told.level) == (row.arm, 100 * row.level)
            assert told.other_change == pytest.approx(100 * row.other_change, abs=1e-3)
    means = pd.read_csv(report / "mean_tradeoff.csv")
    assert means.arm.tolist() == [row.arm for row in outcome.mean_tradeoff]
    assert (means.n_concepts + means.n_missing == N_CLASSES).all()
    metrics = metrics_of(outcome)
    half = means[means.level == 50].set_index("arm")
    for arm in ("selected", "diffmean"):
        told = metrics[f"intervene/other_at_50/{arm}"]
        assert told == pytest.approx(half.other_change[arm] / 100, abs=1e-5)
    for name in ("effect", "learned", "selective"):
        held = sum(v.rungs[name].holds for v in outcome.verdicts)
        assert metrics[f"intervene/n_{name}"] == held
    assert all(math.isfinite(value) for value in metrics.values())


class Page(HTMLParser):
    """What of a page matters here: its tags and pictures, and the text of first cells and titles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.pictures: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag == "img":
            self.pictures.append(dict(attrs)["src"])

    def handle_data(self, data):
        self.texts.append(data.strip())


@pytest.mark.slow
def test_the_page_opens_from_disk(report):
    text = (report / "index.html").read_text()
    page = Page(text)
    assert "://" not in text and "script" not in page.tags
    for name in page.pictures:
        assert (report / name).is_file()
    for number in range(2):
        assert f'id="hypothesis-{number}"' in text and f"figures/{number:03d}-arms.png" in text


@pytest.mark.slow
def test_pictures_come_before_words(report):
    """The trade-off first, a picture before and after second, then the verdicts, then the rest."""
    text = (report / "index.html").read_text()
    assert Page(text).pictures[:2] == ["figures/tradeoff.png", "figures/000-examples.png"]
    in_order = ("2 of 2 hypotheses", "figures/tradeoff.png", "figures/000-examples.png", "Verdicts",
                'class="holds"', "no match", "What was tested", "Against what", "Concept by concept",
                "figures/000-tradeoff.png", "figures/000-examples.png", "figures/000-arms.png",
                "Registration")  # fmt: skip
    place = 0
    for part in in_order:
        assert part in text[place:], f"{part} is missing or too early"
        place = text.index(part, place) + 1


@pytest.mark.slow
def test_names_are_text_wherever_they_land(tmp_path, monkeypatch):
    """In the page, in figures and in the names of their files."""
    hostile = ["C++", "C#", '<b onclick="x">&amp;', "$x^$", "_under", "../up"]
    monkeypatch.setitem(globals(), "CLASSES", hostile)
    outcome = run(setting(tmp_path, concept=[hostile[i] for i in (0, 1, 2, 5)]))
    page = Page(write_report(outcome, tmp_path / "report").read_text())
    assert "b" not in page.tags and set(hostile) - {"$x^$", "_under"} <= set(page.texts)
    own = [name for name in page.pictures if name.endswith("-tradeoff.png")]
    assert len(own) == len(set(own)) == 4  # without doses too: the tested edit is the only point
    assert len(list((tmp_path / "report" / "figures").iterdir())) == 1 + 4 * 3
    assert not (tmp_path / "report" / "tradeoff.csv").exists()
    assert not list(tmp_path.rglob("up*"))


@pytest.mark.slow
def test_heads_that_answer_per_image(folder):
    content = {"selector": {"by": "average_precision", "n": 1}, "directions": 79}
    found = run(setting(folder, "image", **content))
    assert [v.concept for v in found.verdicts] == CLASSES
    for number, v in enumerate(found.verdicts):
        assert v.latents == [number] and v.effect > 0.9 and v.p <= 2 / 120
    assert all(images.sum() == found.test.n_images for images in found.images_of.values())


@pytest.mark.slow
def test_fewer_other_images(folder):
    one = setting(
        folder, "image", images={"discovery": "train", "test": "test", "n_other": 5}, alpha=0.4,
        concept=["star", "ring"],
    )  # fmt: skip
    found = run(one)
    for concept, images in found.images_of.items():
        own = found.test.clean.n_base[:, one.readout.column(concept)] > 0
        assert (images & own).sum() == own.sum() and (images & ~own).sum() == 5


@pytest.mark.parametrize("direction", ["decrease", "increase"])
@pytest.mark.parametrize("per", ["patch", "image"])
def test_gradients_of_margins_against_small_steps(folder, per, direction):
    one = setting(folder, per, direction=direction)
    items = one.source.split("train")[:12]
    slopes = margin_gradients(one, items)
    batch = next(iter(one.batches(items, "test")))
    acts = one.tap(batch.images)
    labels = torch.stack([one.readout.labels(item).label for item in batch.items])[..., 0]
    step = torch.randn(WIDTH, generator=torch.Generator().manual_seed(1)) * 5e-4
    shift = torch.zeros_like(acts)
    shift[:, one.edited_tokens.positions] = step / 2
    for column in range(N_CLASSES):
        others = [c for c in range(N_CLASSES) if c != column]
        before, after = (
            logits[..., column] - logits[..., others].amax(-1)
            for logits in (
                one.readout.of_acts(one.backbone, x, 0) for x in (acts - shift, acts + shift)
            )
        )
        own = labels == column
        counted = own & (before > 0) if direction == "decrease" else ~own & (labels >= 0)
        rise = (after - before)[counted].mean() if counted.any() else torch.tensor(0.0)
        assert float(slopes[column] @ step) == pytest.approx(float(rise), rel=0.05, abs=2e-6)


def test_atoms_count_for_what_the_edit_is_to_do(folder):
    """Lowering a latent to lose a class, or raising it to win it: the same atom is the best."""
    gradients = torch.eye(N_CLASSES, WIDTH)
    lose = setting(folder)
    win = setting(folder, edit={"kind": "set", "scale": 2.0}, direction="increase")
    against = setting(folder, edit={"kind": "set", "scale": 2.0})
    found = [atom_effects(one, gradients)["sae"] for one in (lose, win, against)]
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], -found[2])
    assert atom_effects(lose, gradients).keys() == lose.saes.keys()


@pytest.mark.slow
@pytest.mark.parametrize("by", ["auroc", "attribution", "greedy", "effect"])
def test_selectors_end_to_end(folder, by):
    found = run(
        setting(
            folder, changes={"loud": False}, concept="heart",
            selector={"by": by, "n": 2 if by == "greedy" else 1},
        )
    )  # fmt: skip
    assert found.verdicts[0].latents[0] == 3


@pytest.mark.slow
def test_latents_by_hand_and_the_best_of_several(folder):
    [v] = run(setting(folder, concept="heart", latents=[60])).verdicts
    assert v.latents == [60] and v.verdict != "supported"
    [v] = run(setting(folder, concept="heart", selector={"by": "f1", "best_of": 3})).verdicts
    assert v.verdict == "supported"


@pytest.mark.slow
def test_replacing_has_its_reconstruction_arm(folder):
    found = run(setting(folder, concept="heart", mode="replace"))
    assert {use.arm for use in found.plan.uses} == {*ARMS, "reconstruction"}


@pytest.mark.slow
def test_amplifying(folder):
    found = run(
        setting(folder, concept="heart", edit={"kind": "set", "scale": 4.0}, direction="increase")
    )
    assert found.verdicts[0].effect > 0.5


@pytest.mark.slow
def test_what_two_dictionaries_say_together(folder, tmp_path):
    """Both find the planted latents, and are twins; other hypotheses are not combined."""
    content = {
        "concept": ["star", "heart"],
        "directions": 39,
        "tradeoff": {"doses": [0.25, 0.5, 2]},
    }
    one = run(setting(folder, **content))
    two = run(setting(folder, changes={"loud": False}, **content))
    other = run(setting(folder, latents={"star": [60], "heart": [3]}, **content))
    found = replicate([one, two])
    assert [c.verdicts for c in found.concepts] == [["supported"] * 2] * 2
    assert all(c.twins == [pytest.approx(1.0)] for c in found.concepts)
    assert all(c.rungs["learned"].holds and c.rungs["learned"].n_holds == 2 for c in found.concepts)
    write_replication(found, tmp_path, ["dictionary_1/index.html", "dictionary_2/index.html"])
    assert len(json.loads((tmp_path / "replication.json").read_text())) == 2
    assert "heart" in (tmp_path / "index.html").read_text()
    assert (tmp_path / "figures" / "replication.png").is_file()
    with pytest.raises(ValueError, match="different hypotheses"):
        replicate([one, other])
    with pytest.raises(ValueError, match="nothing to be replicated"):
        replicate([one])


@pytest.mark.slow
def test_one_seed_one_result(folder):
    one, two = (run(setting(folder, concept="ring")).verdicts[0] for _ in range(2))
    assert one == two


@pytest.mark.parametrize(
    "content, words",
    [
        ({"images": {"discovery": "train", "test": "train"}}, "'toy/001' among them"),
        ({"images": {"discovery": "train", "test": ["toy/001"]}}, "cannot be tested on it"),
        ({"images": {"discovery": "train", "test": "val"}}, "holds no images"),
        ({"images": {"discovery": ["toy/999"], "test": "test"}}, "toy/999"),
        ({"concept": "heart", "latents": [N_LATENTS - 1]}, "is dead"),
        ({"concept": "heart", "latents": [N_LATENTS]}, "no latent"),
        ({"concept": "whale"}, "no class 'whale'"),
        ({"layer": 1}, "trained on block 0"),
        ({"draws": 50}, "use draws=119"),
        ({"draws": 12, "alpha": 0.5, "edit": {"kind": "ablate"}}, "edit.kind=ablate"),
        ({"concept": "heart", "images": {"test": "test", "n_test": 4}}, "too few images"),
        ({"images": {"test": "test", "n_test": 3}}, "no concept has enough"),
        ({"alpha": 0.001, "directions": None}, "alive latents"),
        ({"directions": 18}, "directions is 18: it must be null, or 19 or more"),
        ({"selector": {"n": 300}}, "300 latents"),
    ],
)  # fmt: skip
def test_refused_with_one_sentence(folder, content, words):
    with pytest.raises(UserError) as caught:
        run(setting(folder, **content))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_dictionaries_and_heads_of_another_model(folder):
    other = {**WEIGHTS, "sha256": "1" * 64}
    with pytest.raises(UserError, match="SAE was trained on"):
        run(setting(folder, changes={"backbone": {"name": "other", "weights": other}}))
    one = setting(folder)
    model = backbone()
    model.weights = other
    with pytest.raises(UserError, match="head belongs to"):
        make_readout(str(folder / "patches"), model, one.source)
    with pytest.raises(UserError, match="no folder"):
        make_readout("nowhere", model, one.source)
    with pytest.raises(UserError, match="micro"):
        make_readout("attributes", model, one.source)
    with pytest.raises(UserError, match="per patch"):
        run(setting(folder, changes={"tokens": {"which": "class"}}))


@pytest.mark.slow
def test_concepts_without_support_are_left_out_with_a_reason(folder):
    one = setting(folder, support={"n_discovery_units": 10, "n_test_units": 90})
    found = run(one)
    assert found.left_out and all("90 are needed" in reason for reason in found.left_out.values())
    assert len(found.left_out) + len(found.verdicts) == N_CLASSES


@pytest.mark.parametrize("name", sorted(p.stem for p in HYPOTHESES_DIR.glob("*.yaml")))
def test_every_hypothesis_that_comes_along_is_found_by_its_name(name):
    file, text = read_hypothesis(name, None)
    assert file.to_dict() == Hypothesis.from_dict(yaml.safe_load(text), name).to_dict()
    assert read_hypothesis(name, ["one"])[0].concept == ("one",)
