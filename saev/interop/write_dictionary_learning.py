"""Our dictionaries as dictionary_learning reads them: ``ae.pt`` and ``config.json``."""

import io
import json
from pathlib import Path

import torch
from torch import Tensor

from saev.errors import UserError
from saev.files import write_atomically
from saev.interop.raw_units import RawUnits, hook_of, kept_of, raw_units
from saev.sae import SparseAutoencoder

CLASSES = {
    "relu": "AutoEncoder", "topk": "AutoEncoderTopK", "batch_topk": "BatchTopKSAE",
    "jump_relu": "JumpReluAutoEncoder", "gated": "GatedAutoEncoder",
}  # fmt: skip
NEVER_SET = -1.0


def write_dictionary_learning(sae: SparseAutoencoder, folder: Path) -> list[str]:
    """Writes the two files; returns what their format cannot hold, a sentence each.

    Raises:
        UserError: an activation, a normaliser or a linear path that dictionary_learning does not have.
    """
    cfg = sae.cfg
    if cfg.activation not in CLASSES or cfg.skip or cfg.token_norm != "none":
        what = (
            "W_skip" if cfg.skip else cfg.activation if cfg.token_norm == "none" else cfg.token_norm
        )
        raise UserError(
            f"the dictionary has {what}, which dictionary_learning cannot hold; keep it in our format"
        )
    raw = raw_units(sae, subtract=cfg.activation != "jump_relu")
    tensors = _tensors(sae, raw)
    model, hook = hook_of(sae)
    trainer = {
        "dict_class": CLASSES[cfg.activation], "activation_dim": cfg.d_model, "dict_size": cfg.d_sae,
        "k": None if cfg.k is None else max(1, round(cfg.k)), "layer": cfg.layer, "lm_name": model,
        "submodule_name": hook, "saev": kept_of(sae),
    }  # fmt: skip
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "ae.pt", buffer.getvalue())
    text = json.dumps({"trainer": trainer}, indent=2, sort_keys=True) + "\n"
    write_atomically(folder / "config.json", text)
    if cfg.max_norm is None:
        return []
    return [f"max_norm={cfg.max_norm:.4g} is in config.json alone: every token is answered for"]


def _tensors(sae: SparseAutoencoder, raw: RawUnits) -> dict[str, Tensor]:
    linear = {"encoder.weight": raw.W_enc, "decoder.weight": raw.W_dec.T.contiguous()}
    match sae.cfg.activation:
        case "relu":
            return {**linear, "encoder.bias": raw.b_enc, "bias": raw.b_dec}
        case "gated":
            assert raw.r_mag is not None and raw.b_mag is not None
            return {
                **linear, "decoder_bias": raw.b_dec, "gate_bias": raw.b_enc, "r_mag": raw.r_mag,
                "mag_bias": raw.b_mag,
            }  # fmt: skip
        case "jump_relu":
            return {
                "W_enc": raw.W_enc.T.contiguous(), "b_enc": raw.b_enc, "W_dec": raw.W_dec,
                "b_dec": raw.b_dec, "threshold": sae.threshold.detach().cpu().clone(),
            }  # fmt: skip
        case _:
            topk = sae.cfg.activation == "topk"
            threshold = torch.tensor(NEVER_SET) if topk else sae.threshold.detach().cpu().clone()
            k = torch.tensor(max(1, round(sae.cfg.k or 1)))
            return {
                **linear, "encoder.bias": raw.b_enc, "b_dec": raw.b_dec, "k": k, "threshold": threshold,
            }  # fmt: skip
