"""What sparsify writes: ``python make_sparsify.py OUT``, in an environment that has eai-sparsify."""

import os
from pathlib import Path
from typing import Any

os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # its decoder fails on a machine without a GPU

import torch
from cases import D, K, M, Writer, few_positive, fill, inputs, run
from sparsify import SparseCoder, SparseCoderConfig
from torch import Tensor


def dense(values: Tensor, places: Tensor) -> Tensor:
    """Codes of all latents from those of the chosen ones."""
    return torch.zeros(len(values), M).scatter(-1, places, values)


class Cases:
    """Fills, saves, reads back as a user does, and writes down what then comes out."""

    def __init__(self, out: Path) -> None:
        self.writer = Writer(out, "sparsify", "eai-sparsify")

    def keep(
        self,
        name: str,
        note: str,
        refuse: str | None = None,
        shift: float = 0.0,
        **settings: Any,
    ) -> None:
        """One case; x_hat is that of ``forward``, which adds the skip connection if there is one."""
        coder = SparseCoder(D, SparseCoderConfig(**{"k": K, "num_latents": M, **settings}))
        fill(coder, name)
        if coder.cfg.normalize_decoder:
            coder.set_decoder_norm_to_unit_norm()
        coder.encoder.bias += shift
        if shift:
            few_positive(coder.encoder(inputs() - coder.b_dec))
        saved = self.writer.saved(name)
        coder.save_to_disk(saved)
        again = SparseCoder.load_from_disk(saved)
        values, places, _ = again.encode(inputs())
        x_hat = again(inputs()).sae_out
        if not coder.cfg.skip_connection:
            assert torch.equal(x_hat, again.decode(values, places))
        architecture = "transcoder" if coder.cfg.transcode else coder.cfg.activation
        z = dense(values, places)
        self.writer.write(name, architecture, note, inputs(), z, x_hat, refuse)


def single(out: Path) -> None:
    """Dictionaries of one place."""
    cases = Cases(out)
    cases.keep("sparsify_topk", "plain: W_dec is (m, d), its rows of norm 1")
    note = "normalize_decoder false: rows of unequal norms, and b_dec is still taken from the input"
    cases.keep("sparsify_topk_not_normalised", note, normalize_decoder=False)
    note = "most pre-activations are negative: ReLU first, so zeros are among the chosen"
    cases.keep("sparsify_topk_few_positive", note, shift=-5.0)
    note = "num_latents 0: the number of latents is d_in · expansion_factor"
    cases.keep("sparsify_topk_expansion", note, num_latents=0, expansion_factor=M // D)
    note = "the largest of each of k = 4 neighbouring groups of m / k latents, after ReLU"
    cases.keep("sparsify_groupmax", note, activation="groupmax", k=4)
    note = "as groupmax, with most pre-activations negative: whole groups are silent"
    cases.keep("sparsify_groupmax_few_positive", note, activation="groupmax", k=4, shift=-2.0)


def refused(out: Path) -> None:
    """What is no dictionary of one place."""
    cases = Cases(out)
    note = "x_hat = decode(z) + x W_skipᵀ, with the raw x; W_skip is (d, d)"
    reason = "a linear skip connection: x_hat is more than decode(z)"
    cases.keep("sparsify_skip", note, reason, skip_connection=True)
    note = "transcode: b_dec is not taken from the input"
    reason = "a transcoder: it reads one place and writes another"
    cases.keep("sparsify_transcoder", note, reason, transcode=True)


if __name__ == "__main__":
    run([single, refused])
