"""Steering: a steered model, to run, save and load.

steered_model: a backbone with edits of codes inside
steered_tap: one edited layer: dictionary, edits and their unit
files: the folder of a steered model
"""

from saev.steering.steered_model import Steering as Steering
from saev.steering.steered_tap import SteeredTap as SteeredTap
