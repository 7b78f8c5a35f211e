"""LightningModules."""

from saev.modules.sae import SAETraining

__all__ = ["SAETraining"]
