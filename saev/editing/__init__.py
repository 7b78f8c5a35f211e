"""Editing: what one can do to a running model.

tokens: tokens that a dictionary reads, their codes, and writing new values at them
code_edits: edits of codes, z → z'
edits: the same by name, for Python, YAML and JSON
tap_edit: an edit of codes at one tap of the running model
replacement: activations replaced by reconstruction, mean, zeros
directions: baseline edits along directions of equal norm
steering_effects: effect of steering a latent on the model's logits
"""

from saev.editing import edits as edits
from saev.editing.replacement import ARMS as ARMS
from saev.editing.replacement import control_arms as control_arms
from saev.editing.tokens import on_chosen_tokens as on_chosen_tokens
