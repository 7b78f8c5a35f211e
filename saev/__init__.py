"""Sparse autoencoders for vision models: record, train, describe, edit, and prove it by experiment."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saev.backbones import load_backbone as load_backbone
    from saev.sae import SparseAutoencoder as SparseAutoencoder

_PUBLIC = {"SparseAutoencoder": "saev.sae", "load_backbone": "saev.backbones"}


def __getattr__(name: str) -> Any:
    """The public names, imported when first used: ``import saev`` alone loads nothing heavy."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PUBLIC[name]), name)
