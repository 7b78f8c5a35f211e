"""Dictionary maths in plain torch: a whole SAE in ten minutes, in this order of reading.

config: shape, activation, provenance: the contents of ``config.json``
model: the whole of inference: normalisation, five activations, decoding
encode: the codes of a training step, with gradients
objectives/: what training minimises: squared error, L1, L0, the gate's loss, nested losses
atoms: parameterisations of the atoms in training
auxk: the loss that brings dead latents back
dead: detecting and resampling dead latents
sparse: the same codes and gradients as encode, fast: TopK without dense codes

Where needed:

products: encoder products under autocast, in float32
straight_through: gradients of JumpReLU's thresholds
threshold: BatchTopK's choice in a batch, and the threshold that replaces it
initialize: starting values of atoms, encoder rows and decoder bias
pretrained: the folder on disk and on the hub
null_model: sparsity and length of the codes of a dictionary of random atoms
baselines: PCA, ICA, k-means, random … in the same form
"""

from saev.sae.config import SAEConfig
from saev.sae.model import SparseAutoencoder

__all__ = ["SAEConfig", "SparseAutoencoder"]
