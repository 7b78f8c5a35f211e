"""The evaluation pass: same numbers for any batch size, honest about what it cannot do."""

import pytest
import torch

from datamodules.images import ScenesImages
from saev.backbones import Backbone, load_backbone
from saev.errors import UserError
from saev.evaluation.figures import draw_figures, save_figures
from saev.evaluation.held_out import evaluate_images
from saev.recording.record_activations import identity
from saev.sae import SAEConfig, SparseAutoencoder


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("timm", "micro", weights="embedded", layer=4)


@pytest.fixture(scope="module")
def source() -> ScenesImages:
    return ScenesImages(n_images=20, val_fraction=0.4, seed=0)


def dictionary(backbone: Backbone, **changes: object) -> SparseAutoencoder:
    fields: dict = {
        "d_model": backbone.width, "d_sae": 2 * backbone.width, "activation": "topk", "k": 8,
        "backbone": identity(backbone), "layer": backbone.layer, "tokens": {"which": "patch"},
    } | changes  # fmt: skip
    sae = SparseAutoencoder(SAEConfig(**fields), torch.Generator().manual_seed(0))
    return sae.eval().requires_grad_(False)


def test_batch_size_does_not_matter(backbone: Backbone, source: ScenesImages) -> None:
    sae = dictionary(backbone)
    one, two = (
        evaluate_images(sae, backbone, source, batch_size=size, num_workers=0) for size in (3, 8)
    )
    assert one.metrics == pytest.approx(two.metrics, rel=1e-4, abs=1e-6)
    assert one.metrics["val/l0"] == 8
    assert one.metrics["untrained/l0"] == 8
    assert one.n_tokens == len(source.split("heldout")) * 144
    assert one.metrics["fidelity/accuracy/clean"] > 0.9  # the micro ViT knows its shapes


def test_names_that_scripts_rely_on(backbone: Backbone, source: ScenesImages) -> None:
    found = evaluate_images(dictionary(backbone), backbone, source, num_workers=0).metrics
    for key in ("explained_variance", "nmse", "l0", "dead_fraction", "dense_fraction"):
        assert {f"val/{key}", f"val_all/{key}"} <= set(found)
    for metric in ("kl", "agreement", "accuracy", "cross_entropy"):
        for arm in ("clean", "reconstructed", "mean_ablated", "zero_ablated", "untrained"):
            assert f"fidelity/{metric}/{arm}" in found
    assert found["fidelity/kl_recovered"] == pytest.approx(
        1 - found["fidelity/kl/reconstructed"] / found["fidelity/kl/mean_ablated"]
    )


def test_tokens_above_the_limit_are_left_out(backbone: Backbone, source: ScenesImages) -> None:
    everything = evaluate_images(dictionary(backbone), backbone, source, num_workers=0)
    acts = backbone.tap(torch.stack([backbone.transform(source.load(source.split("heldout")[0]))]))
    median = float(acts[4][0, 1:].norm(dim=-1).median())
    some = evaluate_images(dictionary(backbone, max_norm=median), backbone, source, num_workers=0)
    assert 0 < some.n_tokens < everything.n_tokens
    key = "val_all/explained_variance"
    assert some.metrics[key] == pytest.approx(everything.metrics[key])
    kl = "fidelity/kl/zero_ablated"  # fewer tokens were replaced
    assert some.metrics[kl] < everything.metrics[kl]
    with pytest.raises(UserError, match="norm"):
        evaluate_images(dictionary(backbone, max_norm=1e-3), backbone, source, num_workers=0)


def test_another_backbone_is_refused(backbone: Backbone, source: ScenesImages) -> None:
    other = load_backbone("timm", "micro", weights="random", layer=4)
    with pytest.raises(UserError, match=r"backbone\.weights"):
        evaluate_images(dictionary(backbone), other, source, num_workers=0)
    with pytest.raises(UserError, match="dimensions"):
        evaluate_images(dictionary(backbone, d_model=64), backbone, source, num_workers=0)


def test_no_held_out_images(backbone: Backbone) -> None:
    source = ScenesImages(n_images=4, val_fraction=0.0)
    with pytest.raises(UserError, match="val_fraction"):
        evaluate_images(dictionary(backbone), backbone, source, num_workers=0)


def test_figures_are_written(backbone: Backbone, source: ScenesImages, tmp_path) -> None:
    sae = dictionary(backbone)
    evaluation = evaluate_images(sae, backbone, source, num_workers=0, fidelity=False)
    assert not any(key.startswith("fidelity") for key in evaluation.metrics)
    paths = save_figures(draw_figures(evaluation, sae, backbone, source), tmp_path)
    names = {"firing_frequency.png", "latents_random.png", "latents_strongest.png"}
    assert {path.name for path in paths} == names
    assert all(path.stat().st_size > 5_000 for path in paths)
