"""Heads on features of a frozen backbone: trained in a grid, kept as plain torch, read from disk."""

from saev.heads.folder import load_head as load_head
from saev.heads.reading import FEATURES as FEATURES
from saev.heads.reading import Reading as Reading
from saev.heads.trained import KINDS as KINDS
from saev.heads.trained import TrainedHead as TrainedHead
from saev.heads.trained import backbone_identity as backbone_identity
