"""MSAE (one ``.pth`` of a state dict): pre_bias, encoder (d, s), latent_bias, decoder (s, d).

Encode: x − pre_bias, encoder, latent_bias, ReLU or the k largest; x̂ adds pre_bias. The file says neither
k nor mean and scale of the vectors it was trained on. Source: Zaigrajew et al. 2025 (arXiv 2502.20578).
"""

from saev.interop.foreign import Foreign, tensor_of, whole_number
from saev.interop.weights_files import Found


def claims(found: Found) -> bool:
    """The two biases that no other layout names so."""
    return {"pre_bias", "latent_bias"} <= set(found.tensors)


def read(found: Found) -> Foreign:
    """ReLU where the settings name no k."""
    t, where = found.tensors, found.where
    k = found.config.get("k")
    decoder = tensor_of(t, "decoder", where) if "decoder" in t else tensor_of(t, "encoder", where).T
    return Foreign(
        "msae", tensor_of(t, "encoder", where).T, tensor_of(t, "latent_bias", where), decoder,
        tensor_of(t, "pre_bias", where), "relu" if k is None else "topk",
        None if k is None else whole_number(k, "k", where),
        said=("the vectors it was trained on may have been centred and scaled; the file does not say",),
    )  # fmt: skip
