"""Distributed training: the few things to know of the other ranks; one process is rank 0 of 1."""

import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor


def _is_running() -> bool:
    return dist.is_available() and dist.is_initialized()


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if _is_running() else 1


def rank() -> int:
    """Number of this process."""
    return dist.get_rank() if _is_running() else 0


def max_over_ranks(tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """Element-wise maximum over the ranks."""
    if _is_running():
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor


def mean_over_ranks(tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """Element-wise mean over the ranks, of a tensor without gradient."""
    if _is_running():
        tensor = tensor.clone()
        dist.all_reduce(tensor, op=dist.ReduceOp.SUM)
        tensor /= dist.get_world_size()
    return tensor


def variation_of_all(error: Float[Tensor, "b d"]) -> Float[Tensor, ""]:
    """Σ ‖e − mean e‖² over the tokens of all ranks, divided by their number.

    Gradients are averaged over ranks, so with this denominator the mean of their quotients is that
    of the whole batch.
    """
    mean = mean_over_ranks(error.mean(0))
    return mean_over_ranks((error - mean).square().sum())


def gather_rows(tensor: Shaped[Tensor, "b ..."]) -> Shaped[Tensor, "all_b ..."]:
    """The tensors of all ranks, of whatever lengths, one after the other along the first axis."""
    if not _is_running():
        return tensor
    here = torch.tensor([len(tensor)], device=tensor.device)
    lengths = [torch.empty_like(here) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, here)
    longest = max(int(length) for length in lengths)
    # Collectives want equal shapes.
    padded = tensor.new_zeros((longest, *tensor.shape[1:]))
    padded[: len(tensor)] = tensor
    every = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(every, padded)
    return torch.cat([part[: int(n)] for part, n in zip(every, lengths, strict=True)])


def broadcast_from_first(tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """Rank 0's values, on every rank."""
    if _is_running():
        dist.broadcast(tensor, src=0)
    return tensor


def part_ways() -> None:
    """Ends what ties the ranks together, on all of them: what follows is rank 0's alone.

    A metric would otherwise go on waiting for ranks that have nothing more to do.
    """
    if _is_running():
        dist.barrier()
        dist.destroy_process_group()
