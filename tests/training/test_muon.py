import functools
from copy import deepcopy

import pytest
import torch

from saev.training.muon import Muon, orthogonalize
from saev.training.sae_module import SAETraining
from tests.fakes.planted import INIT, LIGHTNING_WARNINGS, activations, decaying, fit

pytestmark = LIGHTNING_WARNINGS


@pytest.mark.parametrize("shape", [(8, 8), (5, 20), (20, 5)])
def test_singular_values_are_pushed_towards_one(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(shape, generator=generator) * 100
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonalize(matrix)
    values = torch.linalg.svdvals(found)
    assert bool((values > 0.3).all()) and bool((values < 1.3).all())
    # The directions are those of the polar factor U·V.
    assert float((found * (u @ v)).sum() / found.norm() / (u @ v).norm()) > 0.95


def test_vectors_follow_adam() -> None:
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.ones(7)) for _ in range(2))
    muon = Muon([ours], lr=0.2, vector_lr=0.01)
    adam = torch.optim.Adam([theirs], lr=0.01)
    for _ in range(5):
        grad = torch.randn(7)
        for parameter, optimizer in ((ours, muon), (theirs, adam)):
            parameter.grad = grad.clone()
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


def test_a_dictionary_learns_and_the_second_gradient_starts_from_nothing() -> None:
    data = activations(64 * 60)
    torch.manual_seed(0)
    module = SAETraining(
        16,
        functools.partial(Muon, lr=0.02),
        "topk",
        500,
        INIT,
        k=8,
        d_sae=64,
        learning_rate=decaying(0.5),
    )
    mean = data.mean(0)
    module.set_data_statistics(
        mean, (16 / (data - mean).square().sum(1).mean()).sqrt().item(), None
    )
    module.initialize_from(data)

    def error() -> float:
        sae = module.export()
        return float((data - sae.reconstruct(data)).square().sum(1).mean())

    before = error()
    fit(module, data)
    assert error() < 0.7 * before


def test_state_comes_back_from_a_checkpoint() -> None:
    def run(n: int, optimizer: Muon, parameters: list[torch.nn.Parameter]) -> None:
        for i in range(n):
            for j, parameter in enumerate(parameters):
                generator = torch.Generator().manual_seed(10 * i + j)
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()

    def fresh() -> list[torch.nn.Parameter]:
        return [torch.nn.Parameter(torch.ones(4, 3)), torch.nn.Parameter(torch.ones(4))]

    whole = fresh()
    first = Muon(whole)
    run(3, first, whole)
    copy = [torch.nn.Parameter(p.detach().clone()) for p in whole]
    second = Muon(copy)
    second.load_state_dict(deepcopy(first.state_dict()))
    run(2, first, whole)
    run(2, second, copy)
    for a, b in zip(whole, copy, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [({"lr": 0.0}, "must be positive"), ({"vector_lr": -1.0}, "must be positive"),
     ({"momentum": 1.0}, "momentum must lie in")],
)  # fmt: skip
def test_bad_arguments_are_refused(arguments: dict, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        Muon([torch.nn.Parameter(torch.ones(2))], **arguments)
