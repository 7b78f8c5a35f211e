"""What people keep of overcomplete: ``python make_overcomplete.py OUT``, where it is installed.

The library saves nothing itself: ``model.pt`` is a state dict, ``config.json`` what one writes beside.
"""

import json
from pathlib import Path
from typing import Any

import matplotlib
import torch
from cases import (
    D,
    K,
    M,
    Writer,
    few_positive,
    fill,
    fill_whole,
    inputs,
    matrix,
    run,
    seeded,
    whole_inputs,
)
from torch import Tensor

matplotlib.cm.get_cmap = matplotlib.colormaps.get_cmap  # its figures ask for the old name
from overcomplete import sae as kinds  # noqa: E402


def built(name: str, **settings: Any) -> kinds.SAE:
    """A model of a class, from the settings that its config.json keeps."""
    return getattr(kinds, name)(D, M, **settings)


class Cases:
    """Saves a model as it stands, builds it anew as a user does, and encodes with that one."""

    def __init__(self, out: Path) -> None:
        self.writer = Writer(out, "overcomplete", "Overcomplete")

    def keep(
        self,
        name: str,
        model: kinds.SAE,
        note: str,
        x: Tensor | None = None,
        *,
        tie: str | None = None,
        refuse: str | None = None,
        threshold: float | None = None,
        shape: tuple[int, ...] = (-1, D),
        **settings: Any,
    ) -> None:
        """One case; z and x_hat are those of the new model after ``load_state_dict`` and ``eval``."""
        saved = self.writer.saved(name)
        torch.save(model.state_dict(), saved / "model.pt")
        kind = type(model).__name__
        config = {
            "library": "overcomplete",
            "class": kind,
            "input_shape": D,
            "nb_concepts": M,
            **{
                key: value
                for key, value in settings.items()
                if key not in ("points", "input_shape")
            },
        }
        if tie is not None:
            config["encoder_module"] = tie
        if threshold is not None:
            config["running_threshold"] = threshold
        (saved / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        again = built(kind, **settings)
        if tie is not None:
            again = getattr(again, tie)(bias=model.encoder.bias is not None)
        again.load_state_dict(torch.load(saved / "model.pt", weights_only=True))
        if threshold is not None:
            again.running_threshold = torch.tensor(threshold)
        again.eval()
        x = (inputs() if x is None else x).reshape(shape)
        _, z = again.encode(x)
        self.writer.write(name, kind, note, x, z, again.decode(z), refuse)


def linear(out: Path) -> None:
    """A linear encoder: ReLU, TopK, BatchTopK and JumpReLU."""
    cases = Cases(out)
    model = built("SAE")
    fill(model, "overcomplete_sae")
    model.eval()
    cases.keep(
        "overcomplete_sae", model, "plain ReLU, saved after eval: rows of the dictionary of norm 1"
    )
    model = built("TopKSAE", top_k=K)
    fill(model, "overcomplete_topk")
    note = "saved while it trains: rows of unequal norms, which eval makes 1; ReLU before top-k"
    cases.keep("overcomplete_topk", model, note, top_k=K)
    fill(model, "overcomplete_topk_few_positive")
    model.encoder.final_block[0].bias -= 3
    few_positive(model.encoder(inputs())[0])
    note = "most pre-activations are negative"
    cases.keep("overcomplete_topk_few_positive", model, note, top_k=K)
    model = built("BatchTopKSAE", top_k=K * 12)
    fill(model, "overcomplete_batchtopk")
    note = "top_k counts over the batch; running_threshold stands in config.json only"
    cases.keep("overcomplete_batchtopk", model, note, top_k=K * 12, threshold=1.5)
    fill_whole(model, "overcomplete_batchtopk_equal")
    assert (model.encoder(whole_inputs())[1] == 3).any()
    note = "whole numbers: some values equal the threshold, and pass"
    x = whole_inputs()
    cases.keep("overcomplete_batchtopk_equal", model, note, x, top_k=K * 12, threshold=3.0)
    model = built("JumpSAE")
    fill(model, "overcomplete_jump")
    cases.keep("overcomplete_jump", model, "thresholds in the file are logarithms, N(0, 1)")
    fill_whole(model, "overcomplete_jump_equal")
    model.thresholds.fill_(0.0)
    assert (model.encoder(whole_inputs())[1] == 1).any()
    note = "whole numbers, every threshold exp(0) = 1: some values equal it, and pass"
    cases.keep("overcomplete_jump_equal", model, note, whole_inputs())


def dictionaries(out: Path) -> None:
    """Dictionaries that are not just rows of norm 1."""
    cases = Cases(out)
    for rule in ("identity", "max_l2", "l1", "max_l1"):
        settings = {"top_k": K, "dictionary_params": {"normalization": rule}}
        model = built("TopKSAE", **settings)
        fill(model, f"overcomplete_topk_{rule}")
        note = f"normalization {rule!r} of the dictionary, which the state dict does not tell"
        cases.keep(f"overcomplete_topk_{rule}", model, note, **settings)
    settings = {"top_k": K, "dictionary_params": {"use_multiplier": True}}
    model = built("TopKSAE", **settings)
    fill(model, "overcomplete_topk_multiplier")
    model.dictionary.multiplier.fill_(0.7)
    note = "a learned multiplier: after the rows are made of norm 1 they are multiplied by exp(0.7)"
    cases.keep("overcomplete_topk_multiplier", model, note, **settings)


def archetypal(out: Path) -> None:
    """RA-SAE: atoms are mixtures of points and a small relaxation."""
    cases = Cases(out)
    for kind, more in [("RATopKSAE", {"top_k": K}), ("RAJumpSAE", {})]:
        for label in ("", "_training"):
            name = f"overcomplete_{kind.lower().removesuffix('sae')}{label}"
            settings = {**more, "points": inputs(20), "delta": 0.5}
            model = built(kind, **settings)
            fill(model, name)
            model.dictionary.multiplier.fill_(-0.4)
            note = "saved after eval: W is row-stochastic, D = (W C + Relax) · exp(multiplier)"
            if label:
                note = "saved while it trains: W has negative entries, Relax is longer than delta"
            else:
                model.eval()
            cases.keep(name, model, note, **settings)


def encoders(out: Path) -> None:
    """Encoders that are more than a matrix and a bias, and can be made one."""
    cases = Cases(out)
    source = seeded("running")
    for kind, settings in [("SAE", {}), ("TopKSAE", {"top_k": K})]:
        name = f"overcomplete_{kind.lower().removesuffix('sae') or 'sae'}_batch_norm"
        settings = {**settings, "encoder_module": "mlp_bn_1"}
        model = built(kind, **settings)
        fill(model, name)
        norm = model.encoder.final_block[1]
        norm.running_mean.copy_(torch.randn(M, generator=source))
        norm.running_var.copy_(torch.rand(M, generator=source) * 4)
        norm.running_var[0] = 1e-4
        note = "batch norm after the matrix: running statistics, weights of both signs, eps 1e-5"
        cases.keep(name, model, note, **settings)
    for tie, bias in [("tied", False), ("tied", True), ("untied", True)]:
        name = f"overcomplete_topk_{tie}{'_bias' if bias else ''}"
        model = getattr(built("TopKSAE", top_k=K), tie)(bias=bias)
        fill(model, name)
        note = {
            "tied": "the encoder is the dictionary as eval makes it: rows of norm 1; keys twice",
            "untied": "TieableEncoder with weights of its own: encoder.weight, encoder.bias",
        }[tie]
        cases.keep(name, model, note, tie=tie, top_k=K)


def refused(out: Path) -> None:
    """Encoders that are no matrix and a bias, and codes that come from a loop."""
    cases = Cases(out)
    for module, reason in [
        ("mlp_ln_1", "layer norm over the latents: no matrix and bias"),
        ("mlp_bn_3", "hidden layers before the last matrix"),
    ]:
        settings = {"top_k": K, "encoder_module": module}
        model = built("TopKSAE", **settings)
        fill(model, f"overcomplete_topk_{module}")
        cases.keep(f"overcomplete_topk_{module}", model, module, refuse=reason, **settings)
    name, writer = "overcomplete_pickled_module", cases.writer
    model = built("TopKSAE", top_k=K)
    fill(model, name)
    model.eval()
    torch.save(model, writer.saved(name) / "model.pt")
    _, z = model.encode(inputs())
    note = "the module itself was saved, not its state dict"
    reason = "the file holds a pickled object: reading it could run code"
    writer.write(name, "TopKSAE", note, inputs(), z, model.decode(z), reason)
    model = built("QSAE", q=4)
    fill(model, "overcomplete_quantised")
    model.Q.copy_(torch.linspace(0, 2, 4))
    reason = "quantised codes"
    cases.keep("overcomplete_quantised", model, "a key Q of 4 levels", refuse=reason, q=4)
    model = built("MpSAE", k=K)
    model.dictionary._weights.copy_(matrix(seeded("pursuit"), M, D))
    reason = "matching pursuit: codes come from a loop, not from an encoder"
    note = "the keys are those of SAE: only the class in config.json tells"
    cases.keep("overcomplete_matching_pursuit", model, note, refuse=reason, k=K)


if __name__ == "__main__":
    run([linear, dictionaries, archetypal, encoders, refused])
