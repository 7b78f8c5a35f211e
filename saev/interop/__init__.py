"""In and out of other libraries: their files as our dictionaries, ours as theirs.

open_any: the door: a dictionary of any layout, from any place
places: a path, a place on the hub or a name → files on this machine
registry: public dictionaries by name, from conf/pretrained
weights_files: weights and settings opened as plain data; no pickled objects
unpickle: a checkpoint with pickled objects as plain data, by hand
layouts: which layout files are of
foreign: what a file says, in our terms, → a dictionary
recorded: what only activations can decide
belongs: which backbone, layer and tokens a file means
objects: dictionary objects in memory as if their files were read

One reader a layout:

sae_lens: SAELens
dictionary_learning: dictionary_learning and its forks for vision
sparsify: sparsify
overcomplete: overcomplete
prisma: ViT-Prisma, PatchSAE, CytoSAE
msae: MSAE
visaebench: ViSAEBench
saev_upstream: the saev of Stevens et al.

And out:

conversion: from one layout into another
raw_units: mean and scale folded into the weights
write_sae_lens: for SAELens
write_dictionary_learning: for dictionary_learning
hub_folder: ours and theirs with a card, uploaded to the hub
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saev.interop.conversion import convert_sae as convert_sae
    from saev.interop.open_any import open_sae as open_sae

_PUBLIC = {"convert_sae": "conversion", "open_sae": "open_any"}


def __getattr__(name: str) -> Any:
    """Without torch until it is needed: the list of names has no use for it."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"saev.interop.{_PUBLIC[name]}"), name)
