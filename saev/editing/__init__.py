"""Editing: what one can do to a running model.

edits: edits on codes, z → z'
steering: edited codes in the running model
replacement: activations replaced by reconstruction, mean, zeros
directions: baseline edits along directions of equal norm
steering_effects: effect of steering a latent on the model's logits
"""

from saev.editing.replacement import ARMS as ARMS
from saev.editing.replacement import control_arms as control_arms
from saev.editing.tokens import on_chosen_tokens as on_chosen_tokens
