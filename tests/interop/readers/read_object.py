"""``open_sae`` on an object of a library: ``python read_object.py LIBRARY SITE PROJECT OUT``.

Runs in the library's environment; what this project needs beside it is taken from SITE, last. OUT gets
``x``, the library's own ``z`` and ``x_hat``, and ours of the same object.
"""

import sys

import torch
from safetensors.torch import save_file


def made(library: str) -> torch.nn.Module:
    """A dictionary of 8 inputs and 16 latents with random weights."""
    if library == "saelens":
        from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig

        return TopKSAE(TopKSAEConfig(d_in=8, d_sae=16, k=3, normalize_activations="layer_norm"))
    if library == "dictlearn":
        import types

        stub = types.ModuleType("nnsight")  # only its buffer of language-model activations needs it
        stub.__dict__["LanguageModel"] = object
        sys.modules.setdefault("nnsight", stub)
        from dictionary_learning.trainers.batch_top_k import BatchTopKSAE

        return BatchTopKSAE(8, 16, 3)
    import matplotlib

    matplotlib.cm.get_cmap = matplotlib.colormaps.get_cmap
    from overcomplete.sae import BatchTopKSAE as OfOvercomplete

    return OfOvercomplete(8, 16, top_k=36)


def read(library: str, site: str, project: str, out: str) -> None:
    """Encodes and decodes with the library, then with what ``open_sae`` makes of the object."""
    torch.manual_seed(0)
    sae, x = made(library), 2 + torch.randn(12, 8)
    for name, tensor in sae.state_dict().items():
        if tensor.is_floating_point() and "multiplier" not in name and "threshold" not in name:
            tensor.copy_(torch.randn(tensor.shape))
    with torch.no_grad():
        if library == "overcomplete":
            sae.train()
            sae.encode(x)
            sae.eval()
            z = sae.encode(x)[1]
        else:
            if library == "dictlearn":
                sae.threshold.fill_(0.5)
            z = sae.encode(x)
        x_hat = sae.decode(z)
        sys.path += [project, site]
        from saev.interop import open_sae

        ours = open_sae(sae)
        z_ours = ours.encode(x)
        x_hat_ours = ours.decode(z_ours, x)
    found = {"x": x, "z": z, "x_hat": x_hat, "z_ours": z_ours, "x_hat_ours": x_hat_ours}
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, out)


if __name__ == "__main__":
    read(*sys.argv[1:])
