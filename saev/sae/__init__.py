"""Dictionary maths in plain torch; a whole SAE in ten minutes, read in this order.

- ``config``: the contents of ``config.json``: shape, activation, provenance.
- ``model``: the whole of inference: normalisation, the five activations, decoding.
- ``encode``: the codes of a training step, with gradients.
- ``objectives``: what training minimises: squared error, L1, L0, the gate's loss, nested ones.
- ``atoms``: how atoms are parameterised while they are trained.
- ``auxk``, ``dead``: what is done for dead latents: AuxK, resampling.

The same, fast: ``sparse`` (TopK without dense codes). What these take for granted:
``straight_through`` (gradients of thresholds), ``threshold`` (BatchTopK's choice and calibration),
``initialize`` (starting values), ``pretrained`` (the folder on disk and on the hub), ``baselines``
(PCA, k-means and others in the same form).
"""

from saev.sae.config import SAEConfig
from saev.sae.model import SparseAutoencoder

__all__ = ["SAEConfig", "SparseAutoencoder"]
