"""torchmetrics with their formula, source and null value."""

from saev.metrics.collection import ReconstructionMetrics

__all__ = ["ReconstructionMetrics"]
