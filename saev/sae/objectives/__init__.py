"""What training minimises apart from AuxK: one class an objective, independent of the decoder.

objective: the contract, and the plain one: squared error
l1: Σ z·‖W_dec‖, and Σ z^p with p falling
l0: JumpReLU's penalties: an L0 to aim at, a plain weight, a saturating one
gated: the gate's own L1 and reconstruction
nested: Matryoshka and multi-TopK
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from saev.sae.objectives.objective import Objective as Objective
from saev.sae.objectives.objective import ObjectiveValue as ObjectiveValue
from saev.sae.objectives.objective import Step as Step

if TYPE_CHECKING:
    from saev.sae.objectives.gated import GatedL1 as GatedL1
    from saev.sae.objectives.l0 import L0Penalty as L0Penalty
    from saev.sae.objectives.l0 import TanhPenalty as TanhPenalty
    from saev.sae.objectives.l0 import TargetL0 as TargetL0
    from saev.sae.objectives.l1 import L1Penalty as L1Penalty
    from saev.sae.objectives.l1 import PAnneal as PAnneal
    from saev.sae.objectives.nested import Matryoshka as Matryoshka
    from saev.sae.objectives.nested import MultiTopK as MultiTopK

_HOMES = {
    "GatedL1": "gated",
    "L0Penalty": "l0",
    "L1Penalty": "l1",
    "Matryoshka": "nested",
    "MultiTopK": "nested",
    "PAnneal": "l1",
    "TanhPenalty": "l0",
    "TargetL0": "l0",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
