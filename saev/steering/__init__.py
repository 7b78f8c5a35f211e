"""Steered models, to run, save and load: edits of codes as a part of a backbone.

Read in this order: ``steered_tap`` (one edited layer), ``steered_model`` (the model), ``files``.
"""

from saev.steering.steered_model import Steering as Steering
from saev.steering.steered_tap import SteeredTap as SteeredTap
