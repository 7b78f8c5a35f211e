"""Backbones: frozen vision transformers behind one contract (transform, forward, tap, edit).

base: the contract
load: name or model object → backbone, the one way in
from_spec: what a dictionary or head keeps of its backbone → backbone
family: what a family receives and returns
timm_family: ViT, DeiT, BEiT, EVA, DINOv3 of timm
own_model: a user's own timm or open_clip model object
timm_trunk: the parts of a timm vision transformer
open_clip_family: vision towers of open_clip
open_clip_config: model, activation function, preprocessing and weights file in open_clip
taps: hooks that read and write the residual stream
planted_features: known features added after a block, read from the picture's own pixels
last_block: the last block for the tokens that are read, and no others
transform: images and masks → tensors
weights: weights on disk: which file, is it safe, its hash
hub: downloads that fail within seconds
micro/: the embedded micro ViT
"""

from saev.backbones.base import Backbone, BackboneOutput
from saev.backbones.load import as_backbone, load_backbone

__all__ = ["Backbone", "BackboneOutput", "as_backbone", "load_backbone"]
