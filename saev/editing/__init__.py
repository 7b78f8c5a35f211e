"""What one can do to a running model: replace its activations, edit codes, steer along directions.

Read in this order: ``tokens`` (where to write), ``code_edits`` (z → z'), ``edits`` (the same by
name), ``tap_edit`` (edits inside the running model), ``directions``, ``replacement``,
``steering_effects``.
"""

from saev.editing.replacement import ARMS as ARMS
from saev.editing.replacement import control_arms as control_arms
from saev.editing.tokens import on_chosen_tokens as on_chosen_tokens
