"""Features: recorded final features with their labels, for training heads.

module: the LightningDataModule
"""

from datamodules.features.module import FeatureBatch as FeatureBatch
from datamodules.features.module import FeatureDataModule as FeatureDataModule
from datamodules.features.module import item_of as item_of
