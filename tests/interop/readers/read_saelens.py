"""What SAELens makes of a folder: ``python read_saelens.py FOLDER X.safetensors OUT.safetensors``.

FOLDER holds cfg.json and sae_weights.safetensors; X the inputs as ``x``; OUT gets ``z``, ``x_hat``.
"""

import sys
import warnings

import torch
from safetensors.torch import load_file, save_file

warnings.filterwarnings("ignore")
from sae_lens import SAE  # noqa: E402


def read(folder: str, x_path: str, out_path: str) -> None:
    """Encodes and decodes x; with hook_z the library sees it as two heads and gives it back flat."""
    torch.set_num_threads(1)
    sae = SAE.load_from_disk(folder)
    x = load_file(x_path)["x"]
    with torch.no_grad():
        z = sae.encode(x.reshape(len(x), 2, -1) if sae.hook_z_reshaping_mode else x)
        x_hat = sae.decode(z).reshape(len(x), -1)
    save_file({"z": z.contiguous(), "x_hat": x_hat.contiguous()}, out_path)


if __name__ == "__main__":
    read(*sys.argv[1:])
