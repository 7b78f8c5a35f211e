"""Activations on disk: recording them, checking them, streaming them to training.

``format`` and ``tar`` are the format itself (docs/formats.md), ``request`` says what a recording
depends on, ``recorder`` with ``shard_recorder`` and ``parts`` makes one, ``statistics`` and
``verify`` look at it, ``reservoir``, ``stream``, ``heldout`` and ``loader`` read it, ``module`` is
what the trainer sees.
"""

from datamodules.activations.format import Manifest
from datamodules.activations.module import ActivationDataModule

__all__ = ["ActivationDataModule", "Manifest"]
