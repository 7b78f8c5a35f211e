"""Frozen vision transformers behind one contract: transform, forward, tap, edit."""

from saev.backbones.base import Backbone, BackboneOutput
from saev.backbones.load import load_backbone

__all__ = ["Backbone", "BackboneOutput", "load_backbone"]


def as_backbone(x):  # temporary
    return x
