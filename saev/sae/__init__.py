"""Dictionary maths in plain torch: a whole SAE in ten minutes, in this order of reading.

config: shape, activation, provenance: the contents of ``config.json``
model: inference: normalisation, encoding, decoding
activations: codes of pre-activations, but for ReLU and TopK
encode: the codes of a training step, with gradients
objectives/: what training minimises: squared error, L1, L0, the gate's loss, nested losses
atoms: parameterisations of the atoms in training
dead: dead latents: detected, brought back by a loss (AuxK), resampled
sparse: the choice of latents, TopK, without dense codes where it pays
products: products with sparse codes and their gradients; what autocast narrows

Where needed:

straight_through: gradients of JumpReLU's thresholds
threshold: BatchTopK's choice in a batch, and the threshold that replaces it
initialize: starting values; sparsity and length of an untrained dictionary's codes
untrained: the null model of a dictionary
pretrained: the folder on disk and on the hub
weights_digest: which dictionary it is, whatever its folder is called
token_norm: normalisers of each token, of dictionaries of others
baselines: PCA, ICA, k-means, random … in the same form
"""

from saev.sae.config import SAEConfig
from saev.sae.model import SparseAutoencoder

__all__ = ["SAEConfig", "SparseAutoencoder"]
