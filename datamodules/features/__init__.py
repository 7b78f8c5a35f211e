"""Final features of a backbone on disk, and batches of them with labels for training heads.

``final`` records them with the recorder of activation tars, ``labels`` says what each row shows,
``module`` is what the trainer sees.
"""

from datamodules.features.final import FinalFeatures as FinalFeatures
from datamodules.features.final import record_features as record_features
from datamodules.features.labels import class_names_of as class_names_of
from datamodules.features.labels import image_mask as image_mask
from datamodules.features.labels import labels_of as labels_of
from datamodules.features.labels import patch_labels as patch_labels
from datamodules.features.module import FeatureBatch as FeatureBatch
from datamodules.features.module import FeatureDataModule as FeatureDataModule
from datamodules.features.module import item_of as item_of
