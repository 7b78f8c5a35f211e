"""What dictionary_learning makes of a folder: ``python read_dictlearn.py FOLDER X OUT``.

FOLDER holds config.json and ae.pt; X the inputs as ``x``; OUT gets ``z``, ``x_hat`` (safetensors).
"""

import json
import sys
from pathlib import Path

import torch
from dictionary_learning.dictionary import AutoEncoder, Dictionary
from dictionary_learning.utils import load_dictionary
from safetensors.torch import load_file, save_file


def loaded(folder: Path) -> Dictionary:
    """The library's ``load_dictionary``, but AutoEncoder with its atoms as they are in the file."""
    config = json.loads((folder / "config.json").read_text())["trainer"]
    if config["dict_class"] == "AutoEncoder":
        return AutoEncoder.from_pretrained(folder / "ae.pt", normalize_decoder=False)
    dictionary = load_dictionary(str(folder), "cpu")[0]
    if config.get("apply_b_dec_to_input"):
        dictionary.apply_b_dec_to_input = True  # the library itself leaves it false
    return dictionary


def read(folder: str, x_path: str, out_path: str) -> None:
    """Encodes and decodes x."""
    torch.set_num_threads(1)
    dictionary = loaded(Path(folder))
    with torch.no_grad():
        z = dictionary.encode(load_file(x_path)["x"])
        x_hat = dictionary.decode(z)
    save_file({"z": z.contiguous(), "x_hat": x_hat.contiguous()}, out_path)


if __name__ == "__main__":
    read(*sys.argv[1:])
