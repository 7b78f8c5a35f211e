"""Every term of every objective: values by definition, gradients against finite differences."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from saev.sae import SAEConfig, SparseAutoencoder
from saev.sae.atoms import ArchetypalAtoms, UnitAtoms
from saev.sae.encode import Encoding, encode_normalized
from saev.sae.objectives import (
    GatedL1,
    L0Penalty,
    L1Penalty,
    Matryoshka,
    MultiTopK,
    Objective,
    PAnneal,
    Step,
    TanhPenalty,
    TargetL0,
)
from saev.sae.objectives.l1 import power_sum

F64 = torch.float64
D, S, B = 4, 16, 7


def make(activation: str, k: float | None, seed: int = 0, **fields) -> SparseAutoencoder:
    generator = torch.Generator().manual_seed(seed)
    sae = SparseAutoencoder(SAEConfig(D, S, activation, k, **fields), generator).double()
    with torch.no_grad():
        for parameter in sae.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=F64)
            parameter.add_(0.1 * noise)
        if activation == "jump_relu":
            sae.threshold.data = sae.threshold.double().abs() + 0.3
    return sae


def step_for(sae: SparseAutoencoder, **changes) -> Step:
    x = 2 * torch.randn(B, D, generator=torch.Generator().manual_seed(5), dtype=F64)
    how = Encoding(bandwidth=0.5, sparse=False)
    return replace(Step(x, x, sae.W_dec, how, number=9, total=100.0), **changes)


CASES = {
    "plain": ("topk", 3, lambda: Objective()),
    "l1": ("relu", None, lambda: L1Penalty(0.7)),
    "l1_topk": ("topk", 3, lambda: L1Penalty(0.7)),
    "l1_batch_topk": ("batch_topk", 3, lambda: L1Penalty(0.7)),
    "p_anneal": ("relu", None, lambda: PAnneal(0.3, p_end=0.2, start=0, end=0.5)),
    "gated": ("gated", None, lambda: GatedL1(0.4, control_rate=0.01)),
    "l0": ("jump_relu", None, lambda: L0Penalty(0.2)),
    "target_l0": ("jump_relu", 5, lambda: TargetL0(0.5)),
    "tanh": (
        "jump_relu",
        None,
        lambda: TanhPenalty(0.3, slope=4.0, pre_coefficient=0.2, warmup=1.0),
    ),
    "matryoshka": ("batch_topk", 2, lambda: Matryoshka([0.25, 0.5, 1.0])),
    "matryoshka_topk": ("topk", 2, lambda: Matryoshka(n_random=3, narrowest=0.25)),
    "multi_topk": ("topk", 2, lambda: MultiTopK(factor=4, weight=0.125)),
    "multi_batch_topk": ("batch_topk", 2, lambda: MultiTopK(factor=4, weight=0.125)),
}

SMOOTH_ONLY = {"threshold"}  # its gradient is a straight-through estimate: test_straight_through.py


def gradients(sae: SparseAutoencoder, objective: Objective, term: str) -> dict[str, Tensor]:
    sae.zero_grad()
    objective(sae, step_for(sae)).terms[term].backward()
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in sae.named_parameters()
    }


def slopes(
    sae: SparseAutoencoder, build: Callable[[], Objective], names: list[str], h: float = 1e-6
) -> dict[str, dict[str, Tensor]]:
    """Central differences of each term with respect to every number of every parameter."""
    found = {term: {n: torch.zeros_like(p) for n, p in sae.named_parameters()} for term in names}
    step = step_for(sae)
    for name, parameter in sae.named_parameters():
        flat = parameter.data.view(-1)
        for i in range(len(flat)):
            values = []
            for sign in (1, -1):
                flat[i] += sign * h
                with torch.no_grad():
                    values.append(build().eval()(sae, step).terms)
                flat[i] -= sign * h
            for term in names:
                slope = (values[0][term] - values[1][term]) / (2 * h)
                found[term][name].view(-1)[i] = slope.item()
    return found


@pytest.mark.parametrize("name", CASES)
def test_every_term_against_finite_differences(name: str) -> None:
    activation, k, build = CASES[name]
    sae, objective = make(activation, k), build()
    objective.eval()  # the gate's weight and p stay where they are
    terms = objective(sae, step_for(sae)).terms
    assert "reconstruction" in terms
    if isinstance(objective, L0Penalty | TargetL0):
        terms.pop("sparsity")  # a step function: its gradient is an estimate
    expected = slopes(sae, build, list(terms))
    for term in terms:
        found = gradients(sae, build().eval(), term)
        for parameter in found:
            if parameter in SMOOTH_ONLY and term != "pre_activation":
                continue
            if isinstance(objective, GatedL1) and term == "gate" and parameter == "W_dec":
                # Held constant in this term, where the loss itself does depend on it.
                assert not bool(found["W_dec"].any()) and not _moves_b_dec(found, sae)
                continue
            if isinstance(objective, GatedL1) and term == "gate" and parameter == "b_dec":
                continue
            torch.testing.assert_close(
                found[parameter],
                expected[term][parameter],
                rtol=1e-5,
                atol=1e-6,
                msg=lambda text, at=(term, parameter): f"{at}: {text}",
            )


def _moves_b_dec(found: dict[str, Tensor], sae: SparseAutoencoder) -> bool:
    """Whether b_dec gets more than what comes through the encoder, −Σ W_enc·∂/∂pre."""
    through_encoder = -found["b_enc"] @ sae.W_enc
    return not torch.allclose(found["b_dec"], through_encoder)


@pytest.mark.parametrize("name", CASES)
def test_the_sum_of_terms_is_the_definition(name: str) -> None:
    activation, k, build = CASES[name]
    sae = make(activation, k)
    step = step_for(sae)
    found = build()(sae, step)
    x_hat, z = found.x_hat, found.codes.values
    torch.testing.assert_close(x_hat, z @ sae.W_dec + sae.b_dec)
    torch.testing.assert_close(found.error_b, (step.x_bar - x_hat).square().sum(1))
    if activation in ("relu", "topk", "jump_relu", "gated"):
        torch.testing.assert_close(z, sae.activate(sae.pre_activations(step.x_bar)))


def test_penalties_by_hand() -> None:
    sae = make("jump_relu", 5).requires_grad_(False)
    step = step_for(sae)
    z = sae.activate(sae.pre_activations(step.x_bar))
    l0 = float((z > 0).double().sum(1).mean())
    norms = sae.W_dec.norm(dim=1)
    tanh = float(torch.tanh(4 * z * norms).sum(1).mean())
    below = ((sae.threshold.clamp_min(0) - sae.pre_activations(step.x_bar)).relu() * norms).sum(1)
    assert float(TargetL0(0.5)(sae, step).terms["sparsity"]) == pytest.approx(
        0.5 * D * (l0 / 5 - 1) ** 2
    )
    assert float(L0Penalty(0.2, warmup_steps=20)(sae, step).terms["sparsity"]) == pytest.approx(
        0.2 * 10 / 20 * l0
    )
    terms = TanhPenalty(0.3, slope=4.0, pre_coefficient=0.2, warmup=1.0)(sae, step).terms
    assert float(terms["sparsity"]) == pytest.approx(0.3 * 10 / 100 * tanh)
    assert float(terms["pre_activation"]) == pytest.approx(0.2 * float(below.mean()))


def test_l0_gradient_pulls_thresholds_towards_the_target() -> None:
    sae = make("jump_relu", 5)
    for k, sign in ((1, -1), (12, 1)):  # too many fire: the gradient raises θ; too few: lowers it
        sae.cfg = replace(sae.cfg, k=k)
        sae.zero_grad()
        TargetL0(1.0)(sae, step_for(sae)).terms["sparsity"].backward()
        assert sae.threshold.grad is not None
        assert float(sae.threshold.grad.sum()) * sign > 0


def test_free_norms_are_counted_and_make_no_difference_to_the_penalty() -> None:
    """Doubling the atoms and halving the codes changes nothing: the norm is in the penalty."""
    sae = make("relu", None)
    before = L1Penalty(1.0)(sae, step_for(sae)).terms
    with torch.no_grad():
        sae.W_dec.mul_(2)
        sae.W_enc.div_(2)
        sae.b_enc.div_(2)
    after = L1Penalty(1.0)(sae, step_for(sae)).terms
    for name in before:
        torch.testing.assert_close(after[name], before[name])


# --- p-annealing -----------------------------------------------------------------------------


def test_p_falls_in_equal_steps_and_the_strength_is_continuous() -> None:
    sae = make("relu", None)
    objective = PAnneal(0.5, p_end=0.2, n_changes=4, start=0.2, end=0.6)
    step = step_for(sae)
    values, powers = [], []
    for number in range(100):
        now = replace(step, number=number)
        powers.append(objective.power(objective.changes_due(now)))
        values.append(float(objective(sae, now).terms["sparsity"].detach()))
    assert powers[0] == powers[19] == 1 and powers[60] == powers[99] == pytest.approx(0.2)
    assert len(set(powers)) == 5
    # Nothing is trained here, so a continuous strength means the same value throughout.
    assert max(values) == pytest.approx(min(values), rel=1e-6)


def test_p_anneal_needs_an_end_and_power_sum_is_safe_at_zero() -> None:
    sae = make("relu", None)
    with pytest.raises(ValueError, match=r"trainer\.max_steps"):
        PAnneal(0.5, p_end=0.2)(sae, step_for(sae, total=float("inf")))
    z = torch.tensor([[0.0, 4.0]], requires_grad=True)
    power_sum(z, 0.5).sum().backward()
    assert z.grad is not None and z.grad.tolist() == [[0.0, 0.25]]


# --- gated -----------------------------------------------------------------------------------


def test_gate_weight_moves_towards_the_target_only_in_training() -> None:
    for k, grows in ((1, True), (16, False)):
        sae, objective = make("gated", k), GatedL1(1.0, control_rate=0.1)
        objective(sae, step_for(sae))
        assert (float(objective.log_coefficient) > 0) == grows
        kept = float(objective.log_coefficient)
        with torch.no_grad():
            objective(sae, step_for(sae))
        objective.eval()(sae, step_for(sae))
        assert float(objective.log_coefficient) == kept


def test_the_gate_gets_a_gradient_only_from_its_own_terms() -> None:
    sae = make("gated", None)
    assert not bool(
        gradients(sae, GatedL1(0.4, control_rate=0.01), "reconstruction")["b_enc"].any()
    )
    grads = gradients(sae, GatedL1(0.4, control_rate=0.01), "sparsity")
    assert bool(grads["b_enc"].any()) and not bool(grads["b_mag"].any())


# --- sparse and dense ------------------------------------------------------------------------


def everything(name: str, sparse: bool) -> dict[str, Tensor]:
    """Values and gradients of all terms together."""
    activation, k, build = CASES[name]
    sae = make(activation, k)
    objective = build().double()
    step = step_for(sae, how=Encoding(bandwidth=0.5, jump_to_input=True, sparse=sparse))
    found = objective(sae, step)
    assert (found.codes.support is not None) == (sparse and name != "tanh")
    sum(found.terms.values()).backward()
    counted = {"counts": found.codes.firing_counts(), "last": found.codes.last_firing()}
    grads = {n: p.grad for n, p in sae.named_parameters() if p.grad is not None}
    return {**found.terms, **counted, **grads, "x_hat": found.x_hat, "error": found.error_b}


@pytest.mark.parametrize("name", CASES)
def test_the_sparse_path_gives_the_numbers_and_gradients_of_the_dense_one(name: str) -> None:
    """Thresholds included; one term of ``tanh`` looks at every latent, so it stays dense."""
    dense, fast = everything(name, False), everything(name, True)
    assert set(dense) == set(fast)
    for what, expected in dense.items():
        torch.testing.assert_close(fast[what], expected, rtol=1e-9, atol=1e-9, msg=what)


def test_tanh_alone_is_sparse_too() -> None:
    found = {}
    for sparse in (False, True):
        sae = make("jump_relu", None)
        objective = TanhPenalty(0.3, slope=4.0, pre_coefficient=0, warmup=1.0)
        value = objective(sae, step_for(sae, how=Encoding(bandwidth=0.5, sparse=sparse)))
        assert (value.codes.support is not None) == sparse
        value.terms["sparsity"].backward()
        found[sparse] = [value.terms["sparsity"].detach(), sae.threshold.grad, sae.W_enc.grad]
    torch.testing.assert_close(found[True], found[False])


@pytest.mark.parametrize(("active", "sparse"), [(2, True), (60, False)])
def test_a_few_tokens_say_which_path_pays(active: int, sparse: bool) -> None:
    sae = SparseAutoencoder(SAEConfig(8, 256, "jump_relu"), torch.Generator().manual_seed(0))
    x = torch.randn(100, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        pre = sae.pre_activations(x)
        sae.threshold.fill_(pre.topk(active, 1).values[:, -1].median() + 0.01)
    codes = encode_normalized(sae, x, Encoding(bandwidth=0.02))
    assert (codes.support is not None) == sparse
    torch.testing.assert_close(
        codes.decode(sae.W_dec, sae.b_dec), sae.activate(pre) @ sae.W_dec + sae.b_dec
    )


# --- nested ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sparse", [False, True])
def test_prefixes_by_definition(sparse: bool) -> None:
    sae = make("topk", 3)
    step = step_for(sae, how=Encoding(sparse=sparse))
    objective = Matryoshka([0.25, 0.5, 1.0], weights=[1.0, 2.0, 0.5])
    found = objective(sae.requires_grad_(False), step)
    z = sae.activate(sae.pre_activations(step.x_bar))
    expected = 0.0
    for width, weight in ((4, 1.0), (8, 2.0), (16, 0.5)):
        x_hat = z[:, :width] @ sae.W_dec[:width] + sae.b_dec
        expected += weight * float((step.x_bar - x_hat).square().sum(1).mean())
    assert float(found.terms["reconstruction"]) == pytest.approx(expected)
    torch.testing.assert_close(found.error_b, (step.x_bar - x_hat).square().sum(1))


def test_random_prefixes_are_drawn_anew_alike_for_one_seed_and_end_in_the_whole() -> None:
    objective = Matryoshka(n_random=4, narrowest=0.1)
    drawn = [tuple(objective.widths(1000, seed)) for seed in range(50)]
    assert len(set(drawn)) == 50 and drawn[3] == tuple(objective.widths(1000, 3))
    assert all(w[-1] == 1000 and sorted(w) == list(w) and w[0] >= 100 for w in drawn)
    # Log-uniform: half of the draws lie below the geometric mean of 100 and 1000.
    below = [width < 316 for widths in drawn for width in widths[:-1]]
    assert sum(below) / len(below) == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("activation", ["topk", "batch_topk"])
@pytest.mark.parametrize("sparse", [False, True])
def test_two_k_share_one_choice(activation: str, sparse: bool) -> None:
    sae = make(activation, 2).requires_grad_(False)
    step = step_for(sae, how=Encoding(sparse=sparse))
    found = MultiTopK(factor=3, weight=0.25)(sae, step)
    narrow, wide = (
        Objective()(
            make(activation, k).requires_grad_(False), replace(step, how=Encoding(sparse=False))
        )
        for k in (2, 6)
    )
    torch.testing.assert_close(found.x_hat, narrow.x_hat)
    assert float(found.terms["multi"]) == pytest.approx(0.25 * float(wide.terms["reconstruction"]))
    if activation == "batch_topk":
        torch.testing.assert_close(found.codes.threshold, narrow.codes.threshold)


def test_a_transcoder_reconstructs_another_target() -> None:
    sae = make("topk", 3)
    step = step_for(sae)
    other = replace(step, target=step.x_bar.flip(1))
    for build in (Objective, lambda: Matryoshka([0.5, 1.0]), lambda: MultiTopK(4, 0.125)):
        x_hat = build()(sae, other).x_hat
        torch.testing.assert_close(
            build()(sae, other).error_b, (other.target - x_hat).square().sum(1)
        )


# --- refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "part"),
    [
        (lambda: L1Penalty(-1), "coefficient must be 0 or more"),
        (lambda: L1Penalty(math.nan), "coefficient must be 0 or more"),
        (lambda: L1Penalty(1, warmup_steps=-1), "warmup_steps must be 0 or more"),
        (lambda: PAnneal(0, p_end=0.2), "coefficient must be positive"),
        (lambda: PAnneal(1, p_end=0), "p_end must be in"),
        (lambda: PAnneal(1, p_end=0.2, start=0.9, end=0.1), "start < end"),
        (lambda: TargetL0(0), "coefficient must be positive"),
        (lambda: TanhPenalty(1, slope=0, pre_coefficient=0, warmup=1), "slope must be positive"),
        (lambda: GatedL1(0, control_rate=0.01), "coefficient must be positive"),
        (lambda: Matryoshka([0.5]), "rising shares that end in 1"),
        (lambda: Matryoshka([0.5, 0.25, 1]), "rising shares"),
        (lambda: Matryoshka([0.5, 1], n_random=3), "not both"),
        (lambda: Matryoshka(), "one of prefixes and n_random"),
        (lambda: Matryoshka(n_random=1), "n_random must be at least 2"),
        (lambda: Matryoshka([0.5, 1], weights=[1]), "one for each fixed prefix"),
        (lambda: MultiTopK(factor=1, weight=0.125), "factor must be greater than 1"),
        (lambda: ArchetypalAtoms(0, relaxation=0.1), "n_points must be at least 2"),
        (lambda: ArchetypalAtoms(5, relaxation=-1), "relaxation must be 0 or more"),
    ],
)
def test_bad_arguments_are_refused(build, part: str) -> None:
    with pytest.raises(ValueError, match=part) as caught:
        build()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("objective", "activation", "k", "part"),
    [
        (TargetL0(1.0), "relu", None, "needs activation jump_relu"),
        (TargetL0(1.0), "jump_relu", None, "must be the L0 to aim at"),
        (Matryoshka([0.5, 1]), "relu", None, "needs activation topk or batch_topk"),
        (Matryoshka([0.125, 1]), "topk", 3, "narrowest prefix of 2 latents, got 3"),
        (Matryoshka([0.01, 1]), "topk", 3, "narrowest prefix of 0"),
        (Matryoshka([0.5, 0.51, 1]), "topk", 3, "fall together"),
        (MultiTopK(factor=4, weight=0.125), "topk", 5, "k times the factor"),
        (GatedL1(1, control_rate=0.01), "relu", None, "needs activation gated"),
        (PAnneal(1, p_end=0.2), "topk", 3, "needs activation relu"),
    ],
)
def test_combinations_without_sense_are_refused(
    objective: Objective, activation: str, k: float | None, part: str
) -> None:
    with pytest.raises(ValueError, match=part):
        objective.check(SAEConfig(D, S, activation, k))


# --- archetypal ------------------------------------------------------------------------------


def archetypal(n_points: int = 24, relaxation: float = 0.1) -> tuple:
    sae, decoder = make("topk", 3), ArchetypalAtoms(n_points, relaxation)
    decoder.attach(sae)
    decoder.double()
    pool = torch.randn(40, D, generator=torch.Generator().manual_seed(2), dtype=F64)
    decoder.start_from(sae, pool)
    return sae, decoder, pool


@pytest.mark.parametrize("n_points", [8, 24])
def test_archetypal_atoms_start_at_data(n_points: int) -> None:
    sae, _, pool = archetypal(n_points)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(S, dtype=F64))
    centred = torch.nn.functional.normalize(pool - sae.b_dec, dim=1)
    nearest = (sae.W_dec @ centred.T).amax(1)
    assert bool((nearest[: min(S, n_points)] > 0.999999).all())
    assert torch.equal(sae.W_enc, sae.W_dec) and len(torch.unique(sae.W_dec, dim=0)) == S


def test_archetypal_atoms_stay_relaxed_convex_combinations() -> None:
    sae, decoder, _ = archetypal()
    optimizer = torch.optim.Adam([p for p in decoder.parameters() if p.requires_grad], lr=0.1)
    for _ in range(20):
        step = step_for(sae, W_dec=decoder.atoms(sae))
        optimizer.zero_grad()
        Objective()(sae, step).terms["reconstruction"].backward()
        optimizer.step()
        decoder.after_step(sae)
    assert bool((decoder.mixture >= 0).all())
    torch.testing.assert_close(decoder.mixture.sum(1), torch.ones(S, dtype=F64))
    limit = 0.1 * decoder.points.norm(dim=1).mean()
    assert bool((decoder.offset.norm(dim=1) <= limit * (1 + 1e-9)).all())
    expected = decoder.mixture @ decoder.points + decoder.offset
    expected = expected / expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(sae.W_dec.detach(), expected.detach())


def test_archetypal_gradients_against_finite_differences() -> None:
    sae, decoder, _ = archetypal()

    def loss(mixture: Tensor, offset: Tensor) -> Tensor:
        atoms = torch.nn.functional.normalize(mixture @ decoder.points + offset, dim=1)
        return Objective()(sae, step_for(sae, W_dec=atoms)).terms["reconstruction"]

    leaves = [t.detach().clone().requires_grad_() for t in (decoder.mixture, decoder.offset)]
    assert torch.autograd.gradcheck(loss, leaves)
    expected = loss(*leaves)
    found = Objective()(sae, step_for(sae, W_dec=decoder.atoms(sae))).terms["reconstruction"]
    torch.testing.assert_close(found, expected)


def test_too_few_points_are_named() -> None:
    sae, decoder = make("topk", 3), ArchetypalAtoms(50, relaxation=0.1)
    decoder.attach(sae)
    with pytest.raises(ValueError, match="n_points=50 needs as many activations, got 3"):
        decoder.start_from(sae, torch.randn(3, D))


def test_unit_atoms_is_what_it_was() -> None:
    sae = make("topk", 3)
    assert UnitAtoms().atoms(sae) is sae.W_dec
