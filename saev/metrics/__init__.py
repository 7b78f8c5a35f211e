"""Metrics with their formula, source and null value.

reconstruction: NMSE, explained variance, cosine
firing: L0, dead, dense
collection: the numbers reported of every dictionary
prediction_fidelity: predictions of an edited model against the untouched one
geometry: angles between atoms, and between sets of them
monosemanticity: similarity of the images of one latent
class_mass: how activation spreads over labels and their tree
probing: sparse probing, unions of a few latents
ood: out-of-distribution scores
visaebench/: the seven numbers of ViSAEBench under its own definitions
"""

from saev.metrics.collection import ReconstructionMetrics

__all__ = ["ReconstructionMetrics"]
