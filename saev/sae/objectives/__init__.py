"""What training minimises apart from AuxK: one class an objective, independent of the decoder.

``objective`` the contract and the squared error · ``l1`` L1 and annealed Σ z^p · ``l0`` JumpReLU's
penalties · ``gated`` the gate's own loss · ``nested`` Matryoshka and several k.
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
