"""Heads on features of a frozen backbone: trained in a grid, kept as plain torch, read from disk."""

from saev.modules.heads.folder import load_head as load_head
from saev.modules.heads.reading import FEATURES as FEATURES
from saev.modules.heads.reading import Reading as Reading
from saev.modules.heads.trained import KINDS as KINDS
from saev.modules.heads.trained import TrainedHead as TrainedHead
from saev.modules.heads.trained import backbone_identity as backbone_identity
