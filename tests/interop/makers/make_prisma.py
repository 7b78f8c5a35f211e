"""What ViT-Prisma writes: ``python make_prisma.py OUT``, in an environment that can import it.

The registry has version 0.1.4, which knows no SAE: this needs the source of 2.0.0 on the path.
"""

import logging
from pathlib import Path
from typing import Any

import torch
from cases import D, K, M, Writer, few_positive, fill, inputs, run
from torch import Tensor
from vit_prisma.sae.config import VisionModelSAERunnerConfig
from vit_prisma.sae.sae import (
    GatedSparseAutoencoder,
    SparseAutoencoder,
    StandardSparseAutoencoder,
)
from vit_prisma.sae.transcoder import Transcoder

logging.disable(logging.WARNING)
PATHS = ("model_path", "dataset_path", "dataset_train_path", "dataset_val_path", "checkpoint_path")


def config(**settings: Any) -> VisionModelSAERunnerConfig:
    """The library's config, with ReLU unless told otherwise and no folder of anyone's machine."""
    return VisionModelSAERunnerConfig(
        **{
            "d_in": D,
            "expansion_factor": M // D,
            "d_out": D,
            "activation_fn_str": "relu",
            "hook_point_layer": 5,
            "layer_subtype": "hook_resid_post",
            "_device": "cpu",
            "wandb_project": "none",
            **dict.fromkeys(PATHS, "none"),
            **settings,
        }
    )


class Cases:
    """Fills, saves, reads back as a user does, and writes down what then comes out."""

    def __init__(self, out: Path) -> None:
        self.writer = Writer(out, "vit-prisma")
        self.writer.version = "2.0.0"

    def keep(
        self,
        name: str,
        model: SparseAutoencoder,
        note: str,
        *,
        single: bool = False,
        refuse: str | None = None,
    ) -> None:
        """One case: weights.pt and config.json, or the checkpoint that its training leaves."""
        saved = self.writer.saved(name)
        model.cfg.save_config(str(saved / "config.json"))
        path = saved / ("n_images_1000.pt" if single else "weights.pt")
        model.save_model(str(path)) if single else torch.save(model.state_dict(), path)
        x, again = inputs(), model
        if not isinstance(model, Transcoder):  # which its reader imports from where it is not
            again = SparseAutoencoder.load_from_pretrained(str(path))
        _, z = again.encode(x)
        x_hat: Tensor = again(x, x)[0] if isinstance(model, Transcoder) else again.decode(z)
        kind = f"{type(model).__name__} {model.cfg.activation_fn_str}"
        self.writer.write(name, kind, note, x, z, x_hat, refuse)


def standard(out: Path) -> None:
    """ReLU and TopK, with each normaliser."""
    cases = Cases(out)
    for name, settings, note in [
        ("prisma_relu", {}, "layer_norm of each vector, the default, undone on the way out"),
        (
            "prisma_relu_constant_norm_rescale",
            {"normalize_activations": "constant_norm_rescale"},
            "every vector is brought to norm √d, undone on the way out",
        ),
        ("prisma_relu_none", {"normalize_activations": "none"}, "no normaliser; x − b_dec"),
        (
            "prisma_topk",
            {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}},
            "k of the pre-activations, then ReLU; layer_norm of each vector",
        ),
        (
            "prisma_topk_few_positive",
            {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}},
            "most pre-activations are negative",
        ),
    ]:
        model = StandardSparseAutoencoder(config(**settings))
        fill(model, name)
        if name.endswith("few_positive"):
            model.b_enc -= 2
            few_positive(model.encode(inputs(), return_hidden_pre=True)[2])
        cases.keep(name, model, note)


def gated(out: Path) -> None:
    """Gate and magnitude, and a b_enc that nothing reads."""
    cases = Cases(out)
    model = GatedSparseAutoencoder(config(architecture="gated"))
    fill(model, "prisma_gated")
    cases.keep("prisma_gated", model, "b_enc is in the file and used nowhere; layer_norm")
    settings = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}
    model = GatedSparseAutoencoder(config(architecture="gated", **settings))
    fill(model, "prisma_gated_topk")
    model.b_gate -= 3
    note = "k of the magnitudes, and of these the ones whose gate is open: up to k"
    reason = "a gate on top of TopK"
    cases.keep("prisma_gated_topk", model, note, refuse=reason)


def refused(out: Path) -> None:
    """Pickled objects, an activation of its own, and transcoders."""
    cases = Cases(out)
    model = StandardSparseAutoencoder(config())
    fill(model, "prisma_single_file")
    note = "{cfg, state_dict} with a config object of the library, as its training leaves it"
    reason = "the file holds a pickled object: reading it could run code"
    cases.keep("prisma_single_file", model, note, single=True, refuse=reason)
    model = StandardSparseAutoencoder(config(activation_fn_str="tanh-relu"))
    fill(model, "prisma_tanh_relu")
    cases.keep("prisma_tanh_relu", model, "z = tanh(ReLU(pre))", refuse="activation tanh-relu")
    model = Transcoder(config(is_transcoder=True))
    fill(model, "prisma_transcoder")
    note = "W_skip, b_dec_out; its own load_from_pretrained fails on a wrong import"
    reason = "a transcoder: it reads one place and writes another"
    cases.keep("prisma_transcoder", model, note, refuse=reason)


if __name__ == "__main__":
    run([standard, gated, refused])
