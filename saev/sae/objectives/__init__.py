"""What training minimises apart from AuxK: one class an objective, independent of the decoder.

objective: the contract, and the plain one: squared error
l1: Σ z·‖W_dec‖, and Σ z^p with p falling
l0: JumpReLU's penalties: an L0 to aim at, a plain weight, a saturating one
gated: the gate's own L1 and reconstruction
nested: Matryoshka and multi-TopK
"""

from saev.sae.objectives.gated import GatedL1
from saev.sae.objectives.l0 import L0Penalty, TanhPenalty, TargetL0
from saev.sae.objectives.l1 import L1Penalty, PAnneal
from saev.sae.objectives.nested import Matryoshka, MultiTopK
from saev.sae.objectives.objective import Objective, ObjectiveValue, Step

__all__ = [
    "GatedL1",
    "L0Penalty",
    "L1Penalty",
    "Matryoshka",
    "MultiTopK",
    "Objective",
    "ObjectiveValue",
    "PAnneal",
    "Step",
    "TanhPenalty",
    "TargetL0",
]
