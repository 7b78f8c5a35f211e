"""AuxK schedule: when it has to be computed, decided without asking the device at every step."""

from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

HORIZON_STEPS = 32
"""Steps a plan holds. One read from the device in 32 steps costs nothing measurable."""


class AuxPlan(NamedTuple):
    """Holds for the steps before ``until_step`` with batches of at most ``n_tokens``."""

    until_step: int
    n_tokens: int
    n_candidates: int
    """At most so many latents can be dead in that time; 0: AuxK would be 0 and is left out."""

    def covers(self, step: int, n_tokens: int) -> bool:
        """Whether the plan still holds."""
        return step < self.until_step and n_tokens <= self.n_tokens


def make_plan(
    since_fired: Int[Tensor, " s"], dead_after_tokens: int, step: int, n_tokens: int
) -> AuxPlan:
    """Look ``HORIZON_STEPS`` ahead: which latents may be inactive for long enough to be dead by then?

    The number is rounded up to a power of two, so that shapes change rarely. Reads one number from
    the device.
    """
    ahead = (HORIZON_STEPS - 1) * n_tokens
    n_may_be_dead = int((since_fired + ahead >= dead_after_tokens).sum().item())
    n_candidates = 0
    if n_may_be_dead > 0:
        n_candidates = min(len(since_fired), 1 << (n_may_be_dead - 1).bit_length())
    return AuxPlan(step + HORIZON_STEPS, n_tokens, n_candidates)


def candidates(since_fired: Int[Tensor, " s"], n: int) -> Int[Tensor, " n"]:
    """The n latents that have been inactive longest, which include every dead one."""
    return torch.sort(since_fired, descending=True, stable=True).indices[:n]
