"""Heads: from a backbone's output to classes.

own: what the model itself answers: classifier, zero-shot, prototypes, retrieval
reading: which part of a backbone's output a head reads
targets: the class of an image or of each patch
trained: a trained head: output, clean or edited → logits
files: a trained head read from its folder, checked
class_rows: heads without training, from embeddings of classes
label_map: which column of a classifier is which class of an image source
scores: accuracy, mIoU and calibration from one confusion matrix
"""

from saev.heads.files import load_head as load_head
from saev.heads.reading import FEATURES as FEATURES
from saev.heads.reading import Reading as Reading
from saev.heads.trained import KINDS as KINDS
from saev.heads.trained import TrainedHead as TrainedHead
from saev.heads.trained import backbone_identity as backbone_identity
