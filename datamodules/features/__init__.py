"""Recorded final features with their labels, as batches for the trainer of a head."""

from datamodules.features.module import FeatureBatch as FeatureBatch
from datamodules.features.module import FeatureDataModule as FeatureDataModule
from datamodules.features.module import item_of as item_of
