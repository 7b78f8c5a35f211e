"""Editing: what one can do to a running model.

tokens: the tokens a dictionary reads, and writing new values at them
code_edits: edits of codes, z → z'
edits: the same edits by name, for Python, YAML and JSON
tap_edit: edited codes at one layer of the running model
replacement: activations replaced by reconstruction, mean, zeros
directions: baseline edits along directions of equal norm
steering_effects: effect of steering a latent on the model's logits
"""

from saev.editing import edits as edits
from saev.editing.replacement import ARMS as ARMS
from saev.editing.replacement import control_arms as control_arms
from saev.editing.tokens import on_chosen_tokens as on_chosen_tokens
