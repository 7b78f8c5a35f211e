"""Dictionary maths in plain torch; weights on disk in ``pretrained`` only."""

from saev.sae.config import SAEConfig
from saev.sae.model import SparseAutoencoder

__all__ = ["SAEConfig", "SparseAutoencoder"]
