"""Steering: a steered model, to run, save, load and export.

steered_model: a backbone with edits of codes inside
steered_tap: one edited layer: dictionary, edits and their unit
files: the folder of a steered model
exported: one file that runs without this library, .pt2 or .onnx
"""

from saev.steering.steered_model import Steering as Steering
from saev.steering.steered_tap import SteeredTap as SteeredTap
