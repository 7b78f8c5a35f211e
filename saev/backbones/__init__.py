"""Frozen vision transformers behind one contract: transform, forward, tap, edit, heads."""

from saev.backbones.base import Backbone, BackboneOutput
from saev.backbones.heads import Head, make_head
from saev.backbones.load import load_backbone

__all__ = ["Backbone", "BackboneOutput", "Head", "load_backbone", "make_head"]
