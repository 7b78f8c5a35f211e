"""What one can do to a running model: replace its activations, edit codes, steer along directions."""

from saev.editing.replacement import ARMS as ARMS
from saev.editing.replacement import Edit as Edit
from saev.editing.replacement import control_arms as control_arms
from saev.editing.replacement import on_chosen_tokens as on_chosen_tokens
