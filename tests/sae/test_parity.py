"""The same weights and input give what a public library gives, up to the documented convention.

Skipped where the library is not installed; docs/dictionaries.md says how to install it aside.
"""

import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from saev.sae import SAEConfig, SparseAutoencoder
from saev.sae.dead import auxk
from saev.sae.encode import Encoding, encode_normalized
from saev.sae.objectives import GatedL1, Matryoshka, Step

D, S, K = 8, 32, 4


@pytest.fixture(scope="module")
def library() -> Iterator[Any]:
    """dictionary-learning: its dictionaries and trainers."""
    stub = ModuleType("nnsight")  # only its buffer of language-model activations needs it
    stub.__dict__["LanguageModel"] = object
    had = "nnsight" in sys.modules
    sys.modules.setdefault("nnsight", stub)
    try:
        pytest.importorskip("dictionary_learning", exc_type=ImportError)
        from dictionary_learning import dictionary  # pyright: ignore[reportMissingImports]
        from dictionary_learning.trainers import (  # pyright: ignore[reportMissingImports]
            batch_top_k,
            gdm,
            matryoshka_batch_top_k,
            top_k,
        )

        yield SimpleNamespace(
            dictionary=dictionary, topk=top_k, batch=batch_top_k, gated=gdm,
            matryoshka=matryoshka_batch_top_k,
        )  # fmt: skip
    finally:
        if not had:
            del sys.modules["nnsight"]


def make(activation: str, k: float | None = None, **fields: Any) -> SparseAutoencoder:
    generator = torch.Generator().manual_seed(0)
    sae = SparseAutoencoder(SAEConfig(D, S, activation, k, **fields), generator)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            if name != "W_dec":
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        if activation == "jump_relu":
            sae.threshold.abs_().add_(0.3)
    return sae


def inputs(n: int = 50) -> Tensor:
    return 2 * torch.randn(n, D, generator=torch.Generator().manual_seed(1))


def load(theirs: Any, ours: SparseAutoencoder, names: dict[str, str]) -> Any:
    """Our tensors under their names; a matrix is turned where the shape says so."""
    state = theirs.state_dict()
    for name, own in names.items():
        value = getattr(ours, own).detach()
        state[name] = value if state[name].shape == value.shape else value.T
    theirs.load_state_dict(state)
    return theirs.eval()


LINEAR = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "decoder.weight": "W_dec"}


def compare(theirs: Any, ours: SparseAutoencoder) -> None:
    x = inputs()
    z = theirs.encode(x)
    torch.testing.assert_close(ours.encode(x), z)
    torch.testing.assert_close(ours.decode(ours.encode(x)), theirs.decode(z))


def test_relu(library: Any) -> None:
    ours = make("relu")
    theirs = library.dictionary.AutoEncoder(D, S)
    compare(load(theirs, ours, {**LINEAR, "bias": "b_dec"}), ours)


def test_topk_and_auxk(library: Any) -> None:
    ours = make("topk", K)
    theirs = library.topk.AutoEncoderTopK(D, S, K)
    compare(load(theirs, ours, {**LINEAR, "b_dec": "b_dec"}), ours)


def batch_topk(library: Any, ours: SparseAutoencoder) -> Any:
    trainer = library.batch.BatchTopKTrainer(
        steps=10, activation_dim=D, dict_size=S, k=K, layer=0, lm_name="none", device="cpu",
        warmup_steps=0,
    )  # fmt: skip
    load(trainer.ae, ours, {**LINEAR, "b_dec": "b_dec"})
    return trainer


def test_batch_topk_in_training_and_at_inference(library: Any) -> None:
    ours, x = make("batch_topk", K), inputs()
    theirs = batch_topk(library, ours).ae
    codes = encode_normalized(ours, x, Encoding(sparse=False))
    torch.testing.assert_close(codes.values, theirs.encode(x, use_threshold=False))
    with torch.no_grad():
        ours.threshold.fill_(0.7)
    theirs.threshold.fill_(0.7)
    compare(theirs, ours)


def test_auxk(library: Any) -> None:
    """Their k_aux is d/2; equal wherever the chosen codes of dead latents are positive."""
    ours, x = make("batch_topk", K), inputs()
    with torch.no_grad():
        ours.b_enc.add_(5.0)  # every code is positive
    trainer = batch_topk(library, ours)
    dead = torch.arange(S) % 3 == 0
    trainer.num_tokens_since_fired = torch.where(dead, 10**9, 0)
    error = x - ours.decode(ours.encode(x))
    post = ours.pre_activations(x).relu()
    expected = trainer.get_auxiliary_loss(error.detach(), post)
    found = auxk(x, error, ours.W_enc, ours.b_enc, ours.W_dec, ours.b_dec, dead, D // 2)
    torch.testing.assert_close(found, expected)


def test_jump_relu(library: Any) -> None:
    ours = make("jump_relu", subtract_b_dec=False)
    names = {name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")}
    compare(load(library.dictionary.JumpReluAutoEncoder(D, S), ours, names), ours)


def test_gated_codes_and_loss(library: Any) -> None:
    ours, x = make("gated"), inputs()
    trainer = library.gated.GatedSAETrainer(
        steps=10, activation_dim=D, dict_size=S, layer=0, lm_name="none", device="cpu",
        l1_penalty=0.3, warmup_steps=0, sparsity_warmup_steps=None,
    )  # fmt: skip
    names = {
        "encoder.weight": "W_enc", "decoder.weight": "W_dec", "decoder_bias": "b_dec",
        "gate_bias": "b_enc", "r_mag": "r_mag", "mag_bias": "b_mag",
    }  # fmt: skip
    load(trainer.ae, ours, names)
    compare(trainer.ae, ours)
    terms = GatedL1(0.3, control_rate=0.01).eval()(ours, Step(x, x, ours.W_dec, Encoding())).terms
    expected = trainer.loss(x, step=0)
    torch.testing.assert_close(torch.stack(list(terms.values())).sum(), expected)


def test_matryoshka_loss(library: Any) -> None:
    """Theirs takes the mean over groups of errors already weighted by 1/g: the g-th part of ours."""
    ours, x = make("batch_topk", K), inputs()
    trainer = library.matryoshka.MatryoshkaBatchTopKTrainer(
        steps=10, activation_dim=D, dict_size=S, k=K, layer=0, lm_name="none", device="cpu",
        group_fractions=[0.25, 0.25, 0.5], warmup_steps=0,
    )  # fmt: skip
    names = {name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    load(trainer.ae, ours, names)
    terms = Matryoshka([0.25, 0.5, 1.0])(ours, Step(x, x, ours.W_dec, Encoding())).terms
    torch.testing.assert_close(terms["reconstruction"], 3 * trainer.loss(x, step=0))
