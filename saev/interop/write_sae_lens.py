"""Our dictionaries as SAELens 6 reads them: ``cfg.json`` and ``sae_weights.safetensors``."""

import json
from pathlib import Path

from saev.errors import UserError
from saev.files import write_atomically
from saev.interop.raw_units import hook_of, kept_of, raw_units
from saev.sae import SparseAutoencoder

ARCHITECTURES = {
    "relu": "standard", "topk": "topk", "batch_topk": "jumprelu", "jump_relu": "jumprelu",
    "gated": "gated",
}  # fmt: skip
NORMALIZERS = {"none": "none", "layer_norm": "layer_norm", "sqrt_d": "constant_norm_rescale"}


def write_sae_lens(sae: SparseAutoencoder, folder: Path) -> list[str]:
    """Writes the two files; returns what their format cannot hold, a sentence each.

    Raises:
        UserError: an activation, or a linear path, that SAELens does not have.
    """
    from safetensors.torch import save

    cfg = sae.cfg
    if cfg.activation not in ARCHITECTURES or cfg.skip:
        what = "W_skip" if cfg.skip else cfg.activation
        raise UserError(
            f"the dictionary has {what}, which SAELens cannot hold; keep it in our format"
        )
    raw = raw_units(sae, subtract=True)
    tensors = {
        "W_enc": raw.W_enc.T.contiguous(), "b_enc": raw.b_enc, "W_dec": raw.W_dec, "b_dec": raw.b_dec,
    }  # fmt: skip
    said = []
    if cfg.activation == "gated":
        assert raw.r_mag is not None and raw.b_mag is not None
        del tensors["b_enc"]
        tensors |= {"b_gate": raw.b_enc, "r_mag": raw.r_mag, "b_mag": raw.b_mag}
    elif cfg.activation in ("batch_topk", "jump_relu"):
        threshold = sae.threshold.detach().cpu().to(raw.b_enc.dtype)
        tensors["threshold"] = threshold.expand(cfg.d_sae).contiguous()
        if cfg.activation == "batch_topk":
            said.append(
                "BatchTopK is written as jumprelu with one threshold, as SAELens itself does"
            )
    if cfg.max_norm is not None:
        said.append(
            f"max_norm={cfg.max_norm:.4g} is in the metadata alone: SAELens answers for every token"
        )
    model, hook = hook_of(sae)
    name = str(tensors["W_enc"].dtype).removeprefix("torch.")
    settings = {
        "architecture": ARCHITECTURES[cfg.activation], "d_in": cfg.d_model, "d_sae": cfg.d_sae,
        "dtype": name, "device": "cpu", "apply_b_dec_to_input": True,
        "normalize_activations": NORMALIZERS[cfg.token_norm], "reshape_activations": "none",
        "metadata": {"model_name": model, "hook_name": hook, "saev": kept_of(sae)},
    }  # fmt: skip
    if cfg.activation == "topk":
        settings |= {"k": int(cfg.k or 0), "rescale_acts_by_decoder_norm": False}
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "sae_weights.safetensors", save(tensors))
    write_atomically(folder / "cfg.json", json.dumps(settings, indent=2, sort_keys=True) + "\n")
    return said
