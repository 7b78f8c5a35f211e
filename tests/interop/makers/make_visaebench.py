"""What ViSAEBench reads: ``python make_visaebench.py OUT``, in an environment that has visaebench.

It writes nothing itself: the files are laid out as its ``load_sae`` wants them, and it reads them.
"""

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from cases import (
    D,
    K,
    M,
    Writer,
    few_positive,
    inputs,
    matrix,
    run,
    seeded,
    whole,
    whole_inputs,
)
from safetensors.torch import save_file
from torch import Tensor
from visaebench.hub.loader import load_sae

PLAIN = ("encoder.weight", "encoder.bias", "decoder.weight")
OVERCOMPLETE = (
    "encoder.final_block.0.weight",
    "encoder.final_block.0.bias",
    "dictionary._weights",
)


def weights(name: str, keys: tuple[str, str, str] = PLAIN) -> dict[str, Tensor]:
    """Both matrices are (m, d), with rows of unequal lengths."""
    source = seeded(name)
    parts = (matrix(source, M, D), torch.randn(M, generator=source), matrix(source, M, D))
    return dict(zip(keys, parts, strict=True))


def whole_weights(name: str) -> dict[str, Tensor]:
    """The same of small whole numbers."""
    source = seeded(name)
    return dict(
        zip(PLAIN, (whole(source, M, D), whole(source, M), whole(source, M, D)), strict=True)
    )


class Cases:
    """Lays a folder out and writes down what the library's reader makes of it."""

    def __init__(self, out: Path) -> None:
        self.writer = Writer(out, "visaebench", "visaebench")

    def keep(
        self,
        name: str,
        tensors: dict[str, Tensor],
        note: str,
        x: Tensor | None = None,
        *,
        as_yaml: bool = False,
        refuse: str | None = None,
        **config: Any,
    ) -> None:
        """One case: sae.pt and config.json, or model.safetensors and config.yaml."""
        saved = self.writer.saved(name)
        if as_yaml:
            save_file(tensors, saved / "model.safetensors")
            (saved / "config.yaml").write_text(yaml.safe_dump(config))
        else:
            torch.save(tensors, saved / "sae.pt")
            (saved / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        sae = load_sae(str(saved), device="cpu")
        x = inputs() if x is None else x
        z = sae.encode(x)
        self.writer.write(name, sae.activation, note, x, z, sae.decode(z), refuse)


SIZES = {"input_dim": D, "hidden_dim": M}


def topk(out: Path) -> None:
    """k of each vector, in the several ways to say so."""
    cases = Cases(out)
    name = "visaebench_topk"
    note = "decoder.weight is (m, d), not (d, m) as a torch Linear has it; no decoder.bias"
    cases.keep(name, weights(name), note, activation="topk", k=K, **SIZES)
    name = "visaebench_topk_bias"
    tensors = {**weights(name), "decoder.bias": torch.randn(D, generator=seeded("bias"))}
    note = (
        "decoder.bias is added to the output and never taken from the input; architecture says topk"
    )
    cases.keep(name, tensors, note, architecture="TopK", k=K, input_dim=D, expansion_factor=M // D)
    name = "visaebench_topk_yaml"
    note = "model.safetensors and config.yaml, sae_type says topk, no sizes"
    cases.keep(name, weights(name), note, as_yaml=True, sae_type="topk", k=K)
    name = "visaebench_topk_few_positive"
    tensors = weights(name)
    tensors["encoder.bias"] -= 2
    few_positive(inputs() @ tensors["encoder.weight"].T + tensors["encoder.bias"])
    note = "most pre-activations are negative: ReLU before top-k"
    cases.keep(name, tensors, note, activation="topk", k=K, **SIZES)
    name = "visaebench_topk_no_activation"
    cases.keep(name, weights(name), "no activation is named: topk", k=K, **SIZES)


def batchtopk(out: Path) -> None:
    """One threshold, wherever it stands."""
    cases = Cases(out)
    settings = {"activation": "batchtopk", "k": K, **SIZES}
    name = "visaebench_batchtopk"
    note = "threshold in the config; what equals it passes"
    cases.keep(name, weights(name), note, threshold=1.5, **settings)
    name = "visaebench_batchtopk_equal"
    tensors, x = whole_weights(name), whole_inputs()
    assert (x @ tensors["encoder.weight"].T + tensors["encoder.bias"] == 3).any()
    note = "whole numbers: some values equal the threshold, and pass"
    cases.keep(name, tensors, note, x, threshold=3.0, **settings)
    name = "visaebench_batchtopk_threshold_in_weights"
    tensors = {**weights(name), "_running_threshold": torch.tensor(1.5)}
    note = "no threshold in the config: the key _running_threshold of the weights holds it"
    cases.keep(name, tensors, note, **settings)
    name = "visaebench_batchtopk_no_threshold"
    cases.keep(name, weights(name), "no threshold anywhere: 0, which is plain ReLU", **settings)


def jumprelu(out: Path) -> None:
    """One threshold for each latent, taken as it is."""
    cases = Cases(out)
    settings = {"activation": "jumprelu", **SIZES}
    name = "visaebench_jumprelu"
    tensors = {**weights(name), "jump_thresholds": torch.rand(M, generator=seeded("jump")) * 2}
    cases.keep(name, tensors, "jump_thresholds beside the weights", **settings)
    name = "visaebench_jumprelu_equal"
    tensors = {**whole_weights(name), "jump_thresholds": torch.full((M,), 3.0)}
    note = "whole numbers: some values equal their threshold, and do not pass (BatchTopK's do)"
    cases.keep(name, tensors, note, whole_inputs(), **settings)
    name = "visaebench_jumprelu_no_thresholds"
    cases.keep(name, weights(name), "no thresholds anywhere: 0.01 each", **settings)


def overcomplete(out: Path) -> None:
    """The keys of overcomplete, read in another way than overcomplete does."""
    cases = Cases(out)
    name = "visaebench_overcomplete_topk"
    tensors = {**weights(name, OVERCOMPLETE), "dictionary.multiplier": torch.tensor(0.7)}
    note = (
        "overcomplete's keys: rows are not made of norm 1 here, only multiplied by exp(multiplier)"
    )
    cases.keep(name, tensors, note, activation="topk", k=K, **SIZES)
    name = "visaebench_overcomplete_jumprelu"
    tensors = {
        **weights(name, OVERCOMPLETE),
        "dictionary.multiplier": torch.tensor(0.0),
        "thresholds": torch.randn(M, generator=seeded("logarithms")),
    }
    note = (
        "overcomplete's thresholds are logarithms; this reader takes them as they are, so that its"
        " codes differ from overcomplete's"
    )
    cases.keep(name, tensors, note, activation="jumprelu", **SIZES)


if __name__ == "__main__":
    run([topk, batchtopk, jumprelu, overcomplete])
