"""What SAELens writes: ``python make_saelens.py OUT``, in an environment that has sae-lens."""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from cases import D, K, M, Writer, few_positive, fill, fill_whole, inputs, run, seeded, whole_inputs
from torch import Tensor

warnings.filterwarnings("ignore")
import sae_lens  # noqa: E402
from sae_lens import SAE  # noqa: E402
from sae_lens.saes import batchtopk_sae, matryoshka_batchtopk_sae, sae  # noqa: E402

PLACE = {"model_name": "open_clip:ViT-B-16", "hook_name": "blocks.5.hook_resid_post"}


def made(kind: str, **settings: Any) -> SAE:
    """An SAE or, where the name says so, one as it is while it trains."""
    settings = {"metadata": sae.SAEMetadata(**PLACE), **settings}
    config = getattr(sae_lens, f"{kind}Config")(d_in=D, d_sae=M, **settings)
    return getattr(sae_lens, kind)(config)


class Cases:
    """Fills, saves, reads back as a user does, and writes down what then comes out."""

    def __init__(self, out: Path) -> None:
        self.writer = Writer(out, "sae-lens", "sae-lens")

    def keep(
        self,
        name: str,
        model: SAE,
        note: str,
        x: Tensor | None = None,
        *,
        inference: bool = False,
        shape: tuple[int, ...] = (-1, D),
        refuse: str | None = None,
        whole_model: bool = False,
    ) -> None:
        """One case; z and x_hat are those of ``SAE.load_from_disk`` on the saved folder."""
        saved = self.writer.saved(name)
        model.save_inference_model(saved) if inference else model.save_model(saved)
        again = SAE.load_from_disk(saved)
        x = (inputs() if x is None else x).reshape(shape)
        z = again.encode(x)
        x_hat = again(x) if whole_model else again.decode(z)
        architecture = json.loads((saved / "cfg.json").read_text())["architecture"]
        self.writer.write(name, architecture, note, x, z, x_hat, refuse)


def plain(out: Path) -> None:
    """The five architectures with nothing odd about them but their numbers."""
    cases = Cases(out)
    for kind, settings, note in [
        ("StandardSAE", {}, "plain ReLU; atoms of unequal norms"),
        ("GatedSAE", {}, "gate where x W_enc + b_gate > 0; b_gate, b_mag, r_mag and no b_enc"),
        ("TopKSAE", {"k": K}, "plain; atoms of unequal norms, which nothing divides away"),
        ("AbsTopKSAE", {"k": K}, "the k largest by magnitude keep their sign: negative codes"),
    ]:
        name = "saelens_" + kind.removesuffix("SAE").lower()
        model = made(kind, **settings)
        fill(model, name)
        cases.keep(name, model, note)
        for off in ("none", "layer_norm", "constant_norm_rescale"):
            if off == "none":
                label, settings_2 = "no_b_dec", {"apply_b_dec_to_input": False}
                said = "b_dec is added to the output but not taken from the input"
            else:
                label, settings_2 = off, {"normalize_activations": off}
                said = f"{off} of each vector at run time, undone on the way out"
            if kind == "AbsTopKSAE" and off != "none":
                continue
            other = made(kind, **settings, **settings_2)
            fill(other, f"{name}_{label}")
            cases.keep(f"{name}_{label}", other, said)


def topk(out: Path) -> None:
    """Codes scaled by the norms of the atoms, and vectors with fewer than k positive latents."""
    cases = Cases(out)
    model = made("TopKSAE", k=K)
    fill(model, "saelens_topk_few_positive")
    model.b_enc -= 8
    few_positive((inputs() - model.b_dec) @ model.W_enc + model.b_enc)
    cases.keep(
        "saelens_topk_few_positive",
        model,
        "most pre-activations are negative: k are chosen first, those below 0 are then cut off",
    )
    for kind in ("TopK", "AbsTopK"):
        name = f"saelens_{kind.lower()}_rescaled"
        model = made(f"{kind}SAE", k=K, rescale_acts_by_decoder_norm=True)
        fill(model, name)
        cases.keep(
            name,
            model,
            "z = chosen(pre · ‖W_dec‖) and decode divides z by ‖W_dec‖: nothing is folded",
        )
    model = made("TopKTrainingSAE", k=K, rescale_acts_by_decoder_norm=True)
    fill(model, "saelens_topk_training")
    note = "a training checkpoint: rescale_acts_by_decoder_norm with atoms that are not of norm 1"
    cases.keep("saelens_topk_training", model, note)
    note = "the same SAE saved for inference: the flag stays true, the atoms have norm 1"
    cases.keep("saelens_topk_training_for_inference", model, note, inference=True)
    model.fold_activation_norm_scaling_factor(0.35)
    note = "trained on 0.35 x, folded into the weights at the end; normalize_activations says none"
    cases.keep("saelens_topk_scale_folded", model, note, inference=True)


def jumprelu(out: Path) -> None:
    """Thresholds above, at and below 0, met exactly, and those that BatchTopK leaves behind."""
    cases = Cases(out)
    for name, shift, note in [
        ("saelens_jumprelu", 1.5, "one threshold for each latent, all above 0"),
        ("saelens_jumprelu_negative", -0.5, "half of the thresholds are below 0: still ReLU there"),
    ]:
        model = made("JumpReLUSAE")
        fill(model, name)
        model.threshold.copy_(shift + torch.rand(M, generator=seeded(name)))
        cases.keep(name, model, note)
    for label, settings in [
        ("no_b_dec", {"apply_b_dec_to_input": False}),
        ("layer_norm", {"normalize_activations": "layer_norm"}),
        ("constant_norm_rescale", {"normalize_activations": "constant_norm_rescale"}),
    ]:
        name = f"saelens_jumprelu_{label}"
        model = made("JumpReLUSAE", **settings)
        fill(model, name)
        model.threshold.abs_()
        cases.keep(name, model, f"{label}; thresholds in the units of the encoder, not of x")
    model = made("JumpReLUSAE")
    fill_whole(model, "saelens_jumprelu_equal")
    model.threshold.fill_(3.0)
    assert ((whole_inputs() - model.b_dec) @ model.W_enc + model.b_enc == 3).any()
    note = "whole numbers: some pre-activations equal their threshold, and do not pass"
    cases.keep("saelens_jumprelu_equal", model, note, whole_inputs())


def batchtopk(out: Path) -> None:
    """BatchTopK and Matryoshka, which are saved as JumpReLU."""
    cases = Cases(out)
    model = batchtopk_sae.BatchTopKTrainingSAE(
        batchtopk_sae.BatchTopKTrainingSAEConfig(
            d_in=D, d_sae=M, k=float(K), rescale_acts_by_decoder_norm=True
        )
    )
    fill(model, "saelens_batchtopk")
    model.topk_threshold.fill_(2.5)
    note = "BatchTopK saved for inference: JumpReLU with one repeated threshold, atoms of norm 1"
    cases.keep("saelens_batchtopk", model, note, inference=True)
    saved = cases.writer.saved("saelens_batchtopk_training")
    model.save_model(saved)
    again = sae.TrainingSAE.load_from_disk(saved)
    z = again.encode(inputs())
    cases.writer.write(
        "saelens_batchtopk_training",
        "batchtopk",
        "a training checkpoint: topk_threshold, one float64 number; its codes depend on the batch",
        inputs(),
        z,
        again.decode(z),
        "a training checkpoint whose codes depend on the batch; SAE.load_from_disk cannot read it",
    )
    model.fold_activation_norm_scaling_factor(0.35)
    note = "trained on 0.35 x: the threshold is divided by 0.35, for pre-activations are"
    cases.keep("saelens_batchtopk_scale_folded", model, note, inference=True)
    nested = matryoshka_batchtopk_sae.MatryoshkaBatchTopKTrainingSAE(
        matryoshka_batchtopk_sae.MatryoshkaBatchTopKTrainingSAEConfig(
            d_in=D,
            d_sae=M,
            k=float(K),
            matryoshka_widths=[4, 8, M],
            rescale_acts_by_decoder_norm=False,
        )
    )
    fill(nested, "saelens_matryoshka")
    nested.topk_threshold.fill_(1.5)
    note = "Matryoshka saved for inference: JumpReLU; the widths are in metadata only"
    cases.keep("saelens_matryoshka", nested, note, inference=True)


def normalisers(out: Path) -> None:
    """Scales and whitening that training folds away, and one scale that was left standing."""
    cases = Cases(out)
    model = made("StandardTrainingSAE", normalize_activations="expected_average_only_in")
    fill(model, "saelens_standard_scale_folded")
    note = "expected_average_only_in is still in cfg.json; the scale is nowhere, and 1 is used"
    cases.keep("saelens_standard_scale_left", model, note, inference=True)
    model.fold_activation_norm_scaling_factor(0.35)
    note = "expected_average_only_in folded at the end of training: cfg.json says none"
    cases.keep("saelens_standard_scale_folded", model, note, inference=True)
    model = made("GatedTrainingSAE", apply_b_dec_to_input=False)
    fill(model, "saelens_gated_whitened")
    source = seeded("whitening")
    mixing = torch.eye(D) + 0.2 * torch.randn(D, D, generator=source)
    model.fold_activation_whitening(torch.full((D,), 2.0), mixing, torch.linalg.inv(mixing))
    note = "covariance_whitening folded, apply_b_dec_to_input false: the mean went into the biases"
    cases.keep("saelens_gated_whitened", model, note, inference=True)
    place = {"hook_name": "blocks.5.attn.hook_z"}
    metadata = sae.SAEMetadata(**{**PLACE, **place})
    model = made("StandardSAE", reshape_activations="hook_z", metadata=metadata)
    fill(model, "saelens_standard_hook_z")
    note = "hook_z: the library takes (n, 2 heads, 4); x and x_hat here are with the heads in a row"
    saved = cases.writer.saved("saelens_standard_hook_z")
    model.save_model(saved)
    again = SAE.load_from_disk(saved)
    z = again.encode(inputs().reshape(-1, 2, 4))
    x_hat = again.decode(z).reshape(-1, D)
    cases.writer.write("saelens_standard_hook_z", "standard", note, inputs(), z, x_hat)


if __name__ == "__main__":
    run([plain, topk, jumprelu, batchtopk, normalisers])
