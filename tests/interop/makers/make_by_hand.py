"""Files of projects that no registry has: ``python make_by_hand.py OUT``, by this project's Python.

The formulas stand here once more, written from descriptions of the formats, without any importer.
"""

import json
import types
from pathlib import Path
from typing import Any

import torch
from cases import D, K, M, Writer, few_positive, inputs, matrix, run, seeded
from torch import Tensor

Weights = dict[str, Tensor]


def weights(name: str, shift: float = 0.0) -> Weights:
    """W_enc (d, m), b_enc, W_dec (m, d), b_dec."""
    source = seeded(name)
    return {
        "W_enc": matrix(source, M, D).T.contiguous(),
        "b_enc": torch.randn(M, generator=source) + shift,
        "W_dec": matrix(source, M, D),
        "b_dec": torch.randn(D, generator=source),
    }


def pre_activations(w: Weights, x: Tensor, subtract: bool) -> Tensor:
    """(n, m): x W_enc + b_enc, with or without taking b_dec from x first."""
    return (x - w["b_dec"] if subtract else x) @ w["W_enc"] + w["b_enc"]


def largest(pre: Tensor, k: int = K) -> Tensor:
    """The k largest of each row as they are, whatever their sign; 0 elsewhere."""
    values, places = pre.topk(k, dim=-1)
    return torch.zeros_like(pre).scatter(-1, places, values)


def above(pre: Tensor, threshold: float) -> Tensor:
    """What is above a threshold; 0 elsewhere."""
    return torch.where(pre > threshold, pre, 0.0)


class Upstream:
    """Checkpoints of saev itself: a line of JSON, then the state dict."""

    def __init__(self, out: Path) -> None:
        self.writer = Writer(out, "saev upstream")

    def keep(
        self,
        name: str,
        header: dict[str, Any],
        note: str,
        *,
        subtract: bool,
        activation: str = "relu",
        threshold: float | None = None,
        shift: float = 0.0,
    ) -> None:
        """One case."""
        w = weights(name, shift)
        pre = pre_activations(w, inputs(), subtract)
        if shift:
            few_positive(pre)
        z = largest(pre) if activation == "topk" else above(pre, max(threshold or 0.0, 0.0))
        state = dict(w)
        if threshold is not None:
            state["activation.threshold"] = torch.tensor(threshold)
        with (self.writer.saved(name) / "sae.pt").open("wb") as file:
            file.write(json.dumps(header).encode() + b"\n")
            torch.save(state, file)
        x_hat = z @ w["W_dec"] + w["b_dec"]
        self.writer.write(name, activation, note, inputs(), z, x_hat)


SIZE_1 = {"d_vit": D, "exp_factor": M // D, "n_reinit_samples": 8192, "seed": 42}
RULES = {"remove_parallel_grads": True, "normalize_w_dec": True}


def headed(
    schema: int, commit: str, kind: str, size: dict[str, Any], **more: Any
) -> dict[str, Any]:
    """A header of schema 2 or later."""
    params = {**({} if kind == "Relu" else {"top_k": K}), **more}
    config = {**size, **RULES, "activation": {"cls": kind, "params": params}}
    return {"schema": schema, "cfg": config, "commit": commit, "lib": "0.1.0"}


def upstream_old(out: Path) -> None:
    """No schema, 1 and 2: with and without taking b_dec from the input."""
    keep = Upstream(out).keep
    old = {**SIZE_1, **RULES, "sparsity_coeff": 0.0004, "ghost_grads": False}
    keep("upstream_no_schema", old, "no schema: b_dec is taken from the input", subtract=True)
    for name, kind, more, commit, subtract in [
        ("upstream_schema1_subtract", "Relu", {}, "33f4c14", True),
        ("upstream_schema1_topk", "TopK", {"top_k": K}, "33f4c14", True),
        ("upstream_schema1_no_subtract", "Relu", {}, "e7ca004", False),
    ]:
        header = {"schema": 1, "cfg": {**SIZE_1, **RULES, **more}, "cls": kind, "commit": commit}
        activation = "topk" if kind == "TopK" else "relu"
        note = f"schema 1, class {kind}: b_dec is {'' if subtract else 'not '}taken from the input"
        keep(name, {**header, "lib": "0.1.0"}, note, subtract=subtract, activation=activation)
    later = headed(1, "f5d892c", "Relu", SIZE_1)
    later["cls"] = "SparseAutoencoderConfig"
    note = "schema 1 with an activation of its own in cfg; nothing is taken from the input"
    keep("upstream_schema1_activation", later, note, subtract=False)
    note = (
        "schema 2 of a dictionary that a Matryoshka objective trained: b_dec taken from the input"
    )
    keep("upstream_schema2_subtract", headed(2, "8d38c23", "Relu", SIZE_1), note, subtract=True)
    size = {**SIZE_1, "n_reinit_samples": 524288}
    note = "schema 2: nothing is taken from the input"
    keep("upstream_schema2_no_subtract", headed(2, "654befb", "Relu", size), note, subtract=False)


def upstream_new(out: Path) -> None:
    """Schemas 3, 4 and 5: nothing is taken from the input; TopK keeps what is negative."""
    keep = Upstream(out).keep
    size_3 = {"d_model": D, "exp_factor": M // D, "n_reinit_samples": 524288, "seed": 0}
    size_4 = {"d_model": D, "d_sae": M, "n_reinit_samples": 524288, "seed": 0}
    size_5 = {"d_model": D, "d_sae": M, "reinit_blend": 0.8, "reinit_enc_dec_tranpose": True}
    keep("upstream_schema3", headed(3, "6fee1c7", "Relu", size_3), "plain ReLU", subtract=False)
    note = "fewer than k are positive: negative values are among the k, and stay"
    keep(
        "upstream_schema3_topk_negative",
        headed(3, "6fee1c7", "TopK", size_3),
        note,
        subtract=False,
        activation="topk",
        shift=-2.5,
    )
    keep("upstream_schema4", headed(4, "513cd52", "Relu", size_4), "d_sae instead", subtract=False)
    note = "BatchTopK before 2025-11-16, no threshold in the file: k of each vector, as TopK"
    header = headed(4, "513cd52", "BatchTopK", size_4)
    keep("upstream_schema4_batchtopk", header, note, subtract=False, activation="topk")
    for schema, commit in [(4, "ce1add2"), (5, "6e76202")]:
        size = size_4 if schema == 4 else size_5
        header = headed(schema, commit, "BatchTopK", size, momentum=0.1)
        note = "BatchTopK with activation.threshold in the state dict: what is above it passes"
        name = f"upstream_schema{schema}_batchtopk_threshold"
        keep(name, header, note, subtract=False, activation="batchtopk", threshold=1.5)
    note = "a threshold of 0 or less: plain ReLU"
    name = "upstream_schema5_batchtopk_unset"
    keep(name, header, note, subtract=False, activation="batchtopk", threshold=0.0)
    nested = {"key": "auxk", "k_aux": 512, "alpha": 0.03125}
    header = headed(5, "3d73f1f", "TopK", size_5, aux={"cls": "AuxK", "params": nested})
    note = "schema 5: what the activation holds is {cls, params} all the way down"
    keep("upstream_schema5_topk", header, note, subtract=False, activation="topk")


def patch_sae(out: Path) -> None:
    """PatchSAE and CytoSAE: one file of a config and a state dict."""
    for key, library in [("cfg", "PatchSAE"), ("config", "CytoSAE")]:
        writer = Writer(out, library)
        name = library.lower()
        w = weights(name)
        config = {"d_in": D, "d_sae": M, "expansion_factor": M // D, "block_layer": -2}
        config |= {"model_name": "openai/clip-vit-base-patch16", "module_name": "resid"}
        torch.save({key: config, "state_dict": w}, writer.saved(name) / "sae.pt")
        z = above(pre_activations(w, inputs(), subtract=True), 0.0)
        note = f"{{{key}, state_dict}} with a plain config: b_dec is taken from the input, no normaliser"
        writer.write(name, "relu", note, inputs(), z, z @ w["W_dec"] + w["b_dec"])
    writer = Writer(out, "PatchSAE")
    name = "patchsae_pickled_config"
    w = weights(name)
    config = types.SimpleNamespace(d_in=D, d_sae=M)
    torch.save({"cfg": config, "state_dict": w}, writer.saved(name) / "sae.pt")
    z = above(pre_activations(w, inputs(), subtract=True), 0.0)
    note = "the config is a pickled object"
    reason = "the file holds a pickled object: reading it could run code"
    writer.write(name, "relu", note, inputs(), z, z @ w["W_dec"] + w["b_dec"], reason)


def msae(out: Path) -> None:
    """MSAE: the settings stand in the name of the file, a mean and a scale of x beside the weights."""
    writer = Writer(out, "MSAE")
    for name, kind, tied, normalise, cap, refuse, note in [
        (
            "msae_relu",
            "ReLU",
            False,
            False,
            0.0,
            None,
            "plain ReLU; mean and scale of x in the file",
        ),
        ("msae_topk", "TopKReLU", False, False, 0.0, None, "k of each vector, then ReLU"),
        (
            "msae_topk_signed",
            "TopK",
            False,
            False,
            0.0,
            None,
            "k of each vector, negative ones too",
        ),
        ("msae_tied", "TopKReLU", True, False, 0.0, None, "no decoder: the transposed encoder"),
        (
            "msae_normalised",
            "TopKReLU",
            False,
            True,
            0.0,
            None,
            "each vector less its mean, by its std",
        ),
        (
            "msae_soft_cap",
            "TopKReLU",
            False,
            False,
            30.0,
            "soft cap: z = 30 tanh(z / 30), which is the library's default",
            "codes go through a soft cap",
        ),
    ]:
        w = weights(name, -2.0 if name == "msae_topk_signed" else 0.0)
        mean, scale = torch.full((D,), 1.5) + 0.1 * torch.arange(D), 0.7
        model = {"pre_bias": w["b_dec"], "encoder": w["W_enc"], "latent_bias": w["b_enc"]}
        if not tied:
            model["decoder"] = w["W_dec"]
        model["latents_activation_frequency"] = torch.zeros(M, dtype=torch.int64)
        file = f"{M}_{D}_{kind}_{K}_{tied}_{normalise}_{cap}_train.pth"
        content = {"model": model, "mean_center": mean, "scaling_factor": scale, "target_norm": 1.0}
        torch.save(content, writer.saved(name) / file)
        seen = (inputs() - mean) * scale
        centre, width = torch.zeros(()), torch.ones(())
        if normalise:
            centre, width = seen.mean(-1, keepdim=True), seen.std(-1, keepdim=True)
            seen = (seen - centre) / (width + 1e-5)
        pre = pre_activations(w, seen, subtract=True)
        chosen = pre if kind == "ReLU" else largest(pre)
        z = chosen if kind == "TopK" else chosen.relu()
        if cap:
            z = cap * torch.tanh(z / cap)
        decoder = w["W_enc"].T if tied else w["W_dec"]
        x_hat = ((z @ decoder + w["b_dec"]) * width + centre) / scale + mean
        writer.write(name, kind, note, inputs(), z, x_hat, refuse)


if __name__ == "__main__":
    run([upstream_old, upstream_new, patch_sae, msae])
