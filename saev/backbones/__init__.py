"""Frozen vision transformers behind one contract: transform, forward, tap, edit."""

from saev.backbones.base import Backbone, BackboneOutput
from saev.backbones.load import as_backbone, load_backbone

__all__ = ["Backbone", "BackboneOutput", "as_backbone", "load_backbone"]
