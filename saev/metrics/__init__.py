"""torchmetrics with their formula, source and null value."""

from saev.metrics.collection import ReconstructionMetrics
from saev.metrics.prediction_fidelity import PredictionFidelity

__all__ = ["PredictionFidelity", "ReconstructionMetrics"]
