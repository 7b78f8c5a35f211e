"""Replacing activations inside the running model, and what that does to its predictions."""

from saev.editing.fidelity import Fidelity as Fidelity
from saev.editing.replacement import ARMS as ARMS
from saev.editing.replacement import Edit as Edit
from saev.editing.replacement import control_arms as control_arms
from saev.editing.replacement import on_chosen_tokens as on_chosen_tokens
