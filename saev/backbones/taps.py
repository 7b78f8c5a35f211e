"""Taps: hooks that read and write the residual stream of a stack of blocks, and leave no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

Edit = Callable[[Tensor], Tensor]
"""(b, t, d) → (b, t, d): the tokens after a block to the tokens the next block sees."""


class Enough(Exception):
    """Raised by a hook when no later block is needed; never leaves this package."""


@contextmanager
def hooked(
    blocks: Sequence[nn.Module],
    hooks: Mapping[int, Callable[[Tensor], Tensor | None]],
    batch_first: bool,
) -> Iterator[None]:
    """While open, each hook sees its block's output as (b, t, d) and may return another.

    A returned tensor takes the place of the output, in the output's dtype: a block in bfloat16
    must not meet the float32 that an edit computed in. The hooks are gone afterwards, whatever
    happened in between.
    """
    with ExitStack() as stack:
        for layer, function in hooks.items():
            handle = blocks[layer].register_forward_hook(_forward_hook(function, batch_first))
            stack.callback(handle.remove)
        yield


def _forward_hook(
    function: Callable[[Tensor], Tensor | None], batch_first: bool
) -> Callable[..., Tensor | None]:
    def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor | None:
        acts_btd = output if batch_first else output.transpose(0, 1)
        edited_btd = function(acts_btd)
        if edited_btd is None:
            return None
        if edited_btd.shape != acts_btd.shape:
            raise ValueError(
                f"an edit returned {tuple(edited_btd.shape)} for tokens {tuple(acts_btd.shape)}; "
                "it must keep the shape (batch, tokens, width)."
            )
        edited_btd = edited_btd.to(acts_btd.dtype)
        return edited_btd if batch_first else edited_btd.transpose(0, 1)

    return hook


@contextmanager
def resumed(
    blocks: Sequence[nn.Module],
    layer: int,
    acts_btd: Tensor,
    batch_first: bool,
    last: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[None]:
    """While open, block ``layer`` gives these tokens and the blocks before it do nothing; ``last``
    stands in for the last block.

    The model's own code then runs from there: rotary embeddings, norms and heads need no second
    implementation here.
    """
    acts = acts_btd if batch_first else acts_btd.transpose(0, 1)
    with ExitStack() as stack:
        for block in blocks[:layer]:
            stack.enter_context(_forward_replaced(block, lambda x, *args, **kwargs: x))
        stack.enter_context(_forward_replaced(blocks[layer], lambda x, *args, **kwargs: acts))
        if last is not None:
            stack.enter_context(_forward_replaced(blocks[-1], last))
        yield


@contextmanager
def _forward_replaced(block: nn.Module, forward: Callable[..., Tensor]) -> Iterator[None]:
    # an attribute of the instance shadows the method of the class
    if "forward" in vars(block):
        raise RuntimeError(
            "resume() cannot run inside resume() or on a block with a patched forward."
        )
    object.__setattr__(block, "forward", forward)
    try:
        yield
    finally:
        object.__delattr__(block, "forward")
