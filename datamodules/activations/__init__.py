"""Activation tars: their format, and the token stream out of them.

format: manifest and files of a folder of activation tars
tar: layout inside one tar
verify: tars against their manifest
norms: norm statistics: normal tokens, normalisation
reservoir: slots in which tokens of many images are mixed
stream: the endless, shuffled stream of training tokens
heldout: held-out tokens, in order, once
remote: tars at a URL: fetched ahead, checked, kept within a bound
loader: worker processes → batches
position: position in the stream, kept in checkpoints
module: the LightningDataModule
in_memory: the same for vectors in memory
"""

from datamodules.activations.format import Manifest
from datamodules.activations.module import ActivationDataModule

__all__ = ["ActivationDataModule", "Manifest"]
