"""Attribution of latents to pixels: exact on toys whose answer is known, and on every kind of model."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from saev import attribute
from saev.attribution.references import blurred
from saev.attribution.relevance import ConservingGradients
from saev.backbones import Backbone, load_backbone
from saev.errors import UserError
from saev.sae import SAEConfig, SparseAutoencoder
from tests.fakes.backbone import WIDTH, TinyBackbone
from tests.fakes.zoo import ZOO

GRID, SIDE = 4, 16
METHODS = ("integrated_gradients", "lrp")


class Relay(TinyBackbone):
    """4 × 4 patches and attention that brings to each token what the patch opposite to it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.grid, self.image_size = (GRID, GRID), (SIDE, SIDE)
        self.token_names = ["class", *["patch"] * GRID**2]

    def tap(self, images: Tensor, layers=None) -> dict[int, Tensor]:
        patches = images.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5)
        values = patches.reshape(len(images), GRID**2, 48) @ self.weight
        scores = 30 * torch.eye(GRID**2).flip(1).expand(len(images), -1, -1)
        acts = scores.softmax(-1) @ values
        acts = torch.cat([acts.mean(1, keepdim=True), acts], 1)
        return {layer: acts for layer in layers or [self.layer]}


def dictionary(model: Backbone, activation: str = "topk", d_sae: int = 24, **changes):
    """Random atoms; encoder rows that read the atoms."""
    cfg = SAEConfig(model.width, d_sae, activation, 4 if "topk" in activation else None,
                    layer=model.layer, tokens={"which": "patch"})  # fmt: skip
    sae = SparseAutoencoder(replace(cfg, **changes), torch.Generator().manual_seed(1))
    return sae.eval().requires_grad_(False)


def noise(model: Backbone) -> Tensor:
    return torch.randn(3, *model.image_size, generator=torch.Generator().manual_seed(0))


def strongest(sae: SparseAutoencoder, model: Backbone, image: Tensor) -> int:
    acts = model.tap(image[None])[model.layer][:, model.n_prefix :]
    return int(sae.encode(acts).sum((0, 1)).argmax())


@pytest.fixture(scope="module")
def relay() -> Relay:
    return Relay()


@pytest.fixture(scope="module")
def micro() -> Backbone:
    return load_backbone("micro")


@pytest.fixture
def planted(relay) -> tuple[SparseAutoencoder, Tensor]:
    """Latent 0 fires on what the last patch shows, at the token of the first; a grey image else."""
    sae = dictionary(relay, "relu")
    direction = torch.randn(48, generator=torch.Generator().manual_seed(3))
    sae.W_enc.zero_()
    sae.W_enc[0] = direction @ relay.weight
    sae.b_enc.fill_(-sae.W_enc[0].square().sum() / 2)  # half of what the patch brings
    image = torch.zeros(3, SIDE, SIDE)
    image[:, 12:, 12:] = direction.view(3, 4, 4)
    return sae, image


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("baseline", ["blur", "mean"])
def test_on_a_linear_model_pixels_are_weights_times_what_differs(method, baseline) -> None:
    model = TinyBackbone()
    sae, image = dictionary(model, "topk"), noise(model)
    latent = strongest(sae, model, image)
    found = attribute(sae, model, image, latent, method=method, baseline=baseline, at=[2])
    reference = blurred(image, model.grid) if baseline == "blur" else torch.zeros_like(image)
    slope = (sae.W_enc[latent] @ model.weight.T * 2).view(3, 4, 4)  # block 1 multiplies by 2
    expected = torch.zeros(8, 8)
    expected[4:, :4] = ((image - reference)[:, 4:, :4] * slope).sum(0)
    torch.testing.assert_close(found.pixels, expected)
    torch.testing.assert_close(found.patches, expected.view(2, 4, 2, 4).sum((1, 3)))
    assert abs(found.gap) < 1e-4 * max(1, abs(found.value))


def test_it_is_the_code_that_is_attributed_where_the_latent_fires(micro) -> None:
    image = noise(micro)
    for activation in ("relu", "topk", "jump_relu", "batch_topk", "gated"):
        sae = dictionary(micro, activation)
        if activation == "gated":
            sae.r_mag.fill_(0.7)
            sae.b_mag.fill_(0.2)
        latent = strongest(sae, micro, image)
        found = attribute(sae, micro, image, latent, n_steps=2)
        assert found.codes is not None
        assert found.value == pytest.approx(float(found.codes.sum()), rel=1e-4), activation


def test_integrated_gradients_are_complete_with_enough_steps(micro) -> None:
    sae, image = dictionary(micro), noise(micro)
    latent = strongest(sae, micro, image)
    few, many = (attribute(sae, micro, image, latent, n_steps=n) for n in (1, 48))
    scale = abs(many.value - many.baseline_value)
    assert abs(many.gap) < 0.01 * scale < abs(few.gap)
    total = float(many.pixels.double().sum())
    assert total == pytest.approx(many.value - many.baseline_value + many.gap, abs=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_evidence_that_attention_has_moved_is_found_where_it_lies(relay, planted, method) -> None:
    sae, image = planted
    found = attribute(sae, relay, image, 0, method=method)
    assert found.codes is not None
    assert int(found.codes.argmax()) == 0 and int(found.patches.argmax()) == 15
    assert found.peak_distance == 3
    assert found.patches[-1, -1] > 0.99 * found.patches.abs().sum()


def test_curves_on_planted_evidence_have_the_areas_one_can_work_out(relay, planted) -> None:
    sae, image = planted
    curves = attribute(sae, relay, image, 0).insertion_deletion(16, n_random=400)
    best = curves.attribution
    torch.testing.assert_close(best.shares, torch.linspace(0, 1, 17))
    # all of the code comes, and goes, with the first of 16 patches
    torch.testing.assert_close(best.insertion, torch.ones(1, 17).index_fill(1, torch.tensor(0), 0))
    torch.testing.assert_close(best.deletion, 1 - best.insertion)
    assert best.insertion_areas.item() == pytest.approx(1 - 1 / 32)
    assert best.deletion_areas.item() == pytest.approx(1 / 32)
    # the patch comes at a place that is uniform among 16, so half of the area on average
    random = curves.random
    assert random.insertion_areas.mean().item() == pytest.approx(0.5, abs=0.05)
    torch.testing.assert_close(random.deletion_areas, random.insertion_areas)
    assert curves.better_than_random() == (True, True)
    # the token that fires shows nothing: the heat-map's order brings the evidence last
    assert curves.heatmap is not None
    assert curves.heatmap.insertion_areas.item() < 0.1 and curves.better_than_heatmap() == (
        True,
        True,
    )


def test_curves_depend_on_the_seed_alone_and_a_batch_changes_nothing(relay, planted) -> None:
    sae, image = planted
    found = attribute(sae, relay, image, 0)
    one, same, other = (
        found.insertion_deletion(5, n_random=3, seed=seed, batch_size=size).random.insertion
        for seed, size in ((0, 16), (0, 2), (1, 16))
    )
    torch.testing.assert_close(one, same)
    assert one.shape == (3, 6) and not torch.equal(one, other)
    torch.testing.assert_close(one[:, -1], torch.ones(3))


def test_a_worse_map_has_a_worse_curve(relay, planted) -> None:
    sae, image = planted
    found = attribute(sae, relay, image, 0)
    upside_down = replace(found, patches=-found.patches)
    assert upside_down.insertion_deletion().better_than_random() == (False, False)


def test_chosen_patches_alone_are_read(micro) -> None:
    sae, image = dictionary(micro), noise(micro)
    latent = strongest(sae, micro, image)
    parts = [attribute(sae, micro, image, latent, at=[patch]) for patch in (5, 17)]
    both = attribute(sae, micro, image, latent, at=[17, 5, 5])
    torch.testing.assert_close(both.pixels, sum(p.pixels for p in parts), atol=1e-4, rtol=1e-3)
    assert both.value == pytest.approx(sum(p.value for p in parts), rel=1e-4)


@pytest.mark.parametrize("name", ZOO)
def test_every_kind_of_model_is_attributed(name) -> None:
    model = ZOO[name].load(layer=1)
    sae, image = dictionary(model), noise(model)
    latent = strongest(sae, model, image)
    for method in METHODS:
        found = attribute(sae, model, image, latent, method=method, n_steps=4)
        assert found.pixels.shape == model.image_size and found.patches.shape == model.grid
        assert found.pixels.isfinite().all() and found.pixels.abs().sum() > 0
    assert all(p.grad is None for p in model.parameters())


def lively(name: str, layer: int) -> Backbone:
    """A random model whose blocks matter: a fresh one hardly adds to its residual stream."""
    model = ZOO[name].load(layer=layer)
    for block in model.trunk.blocks:
        for key, parameter in block.named_parameters():
            if "gamma" in key:  # layer scales start near 0
                parameter.data.fill_(1.0)
            elif parameter.ndim > 1:
                parameter.data.normal_(0, 2 * parameter.shape[-1] ** -0.5)
    return model


def without_constants(model: Backbone) -> None:
    """Whatever does not come from the image is set to 0: biases, positions, prefix tokens."""
    for name, parameter in model.trunk.named_parameters():
        constant = ("bias", "embed", "token", "class_embedding", "positional", "beta")
        if any(word in name.rsplit(".", 1)[-1] for word in constant):
            parameter.data.zero_()


@pytest.mark.parametrize(
    "name", ["class_token", "rope_and_registers", "eva", "relative_position", "timm_clip",
             "native", "native_quick_gelu", "timm_tower"],
)  # fmt: skip
def test_relevance_is_conserved_where_nothing_but_the_image_adds_to_it(name) -> None:
    model = lively(name, layer=2)
    without_constants(model)
    sae, image = dictionary(model), noise(model)
    latent = strongest(sae, model, image)
    found = attribute(sae, model, image, latent, method="lrp", baseline="mean")
    assert abs(found.gap) < 2e-3 * found.value
    leaf = image[None].clone().requires_grad_(True)
    found.probe.pre_activations(leaf).sum().backward()
    plain = float((leaf.grad[0] * image).sum())
    assert abs(plain - found.value) > 0.05 * found.value, (
        "the model's own gradients do not conserve"
    )


@pytest.mark.parametrize("name", ZOO)
def test_rules_change_gradients_and_no_value(name) -> None:
    model = lively(name, layer=1)
    images = noise(model)[None].requires_grad_(True)
    with ConservingGradients():
        inside = model.tap(images)[1]
    outside = model.tap(images)[1]
    torch.testing.assert_close(inside, outside, atol=1e-3, rtol=1e-3)
    direction = torch.randn(outside.shape, generator=torch.Generator().manual_seed(4))
    a, b = (torch.autograd.grad((x * direction).sum(), images)[0] for x in (inside, outside))
    assert (a - b).norm() > 0.05 * b.norm()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"latent": 24}, "latent=24 is out of range: the dictionary has 24 latents"),
        ({"latent": -1}, "latent=-1 is out of range"),
        ({"method": "gradcam"}, "method is one of integrated_gradients, lrp"),
        ({"baseline": "black"}, "baseline one of blur, mean"),
        (
            {"at": [16]},
            "give one or more patches that the dictionary reads, row-major, from 0 to 15",
        ),
        ({"at": []}, "give one or more patches"),
        ({"image": torch.zeros(3, 8, 8)}, "image is (3, 8, 8)"),
        ({"latent": 5}, "latent 5 fires nowhere on this image; give at=…"),
        ({"n_steps": 0}, "n_steps=0; give 1 or more"),
    ],
)
def test_what_cannot_be_attributed_is_refused_in_a_sentence(
    relay, planted, changes, sentence
) -> None:
    sae, image = planted
    arguments = {"image": image, "latent": 0} | changes
    with pytest.raises(UserError) as refused:
        attribute(sae, relay, **arguments)
    assert sentence in str(refused.value)


def test_dictionaries_and_curves_that_have_no_answer_are_refused(relay, planted, micro) -> None:
    sae, image = planted
    silent = attribute(sae, relay, image, 5, at=[3])
    with pytest.raises(UserError, match="latent 5 does not fire at these tokens"):
        silent.insertion_deletion()
    with pytest.raises(UserError, match="n_random=0"):
        attribute(sae, relay, image, 0).insertion_deletion(n_random=0)
    with pytest.raises(UserError, match=f"the SAE reads {WIDTH} dimensions"):
        attribute(sae, micro, noise(micro), 0)
    nowhere = dictionary(relay, "relu", layer=None)
    with pytest.raises(UserError, match="does not say which layer"):
        attribute(nowhere, relay, image, 0)
