"""Jobs in lockstep: who goes on when, and what is whose."""

import logging
import os

import numpy as np
import pytest
import torch
from hydra.core.hydra_config import HydraConfig

from saev.cli import lockstep
from saev.cli.lockstep import Lockstep


def readers(steps: Lockstep, starts: list[int], end: int, seen: list) -> list:
    ready: list[int] = []
    steps.advance = ready.append

    def reader(name: int, start: int):
        def work() -> str:
            for position in range(start, end):
                while position not in ready:
                    steps.wait(position)
                seen.append((position, name))
            return f"done {name}"

        return work

    return [reader(name, start) for name, start in enumerate(starts)]


def test_all_read_a_place_before_any_reads_the_next() -> None:
    steps, seen = Lockstep(), []
    assert steps.run(readers(steps, [0, 0, 0], 4, seen)) == ["done 0", "done 1", "done 2"]
    assert seen == [(position, name) for position in range(4) for name in range(3)]


def test_who_is_ahead_waits_for_the_others() -> None:
    steps, seen = Lockstep(), []
    steps.run(readers(steps, [2, 0], 4, seen))
    assert seen == [(0, 1), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1)]


def test_one_that_fails_does_not_stop_the_others() -> None:
    steps, seen = Lockstep(), []
    works = readers(steps, [0, 0], 3, seen)

    def failing() -> None:
        steps.wait(1)
        raise ZeroDivisionError("alone")

    with pytest.raises(ZeroDivisionError, match="alone"):
        steps.run([works[0], failing, works[1]])
    assert [name for _, name in seen].count(0) == [name for _, name in seen].count(2 - 1) == 3
    assert lockstep.current() is None


def test_generators_config_and_handlers_are_each_job_s_own(tmp_path) -> None:
    """The same draws as in a run of its own, whatever the others draw in between."""

    def draws(seed: int, pause) -> list:
        np.random.seed(seed)
        torch.manual_seed(seed)
        os.environ["PL_GLOBAL_SEED"] = str(seed)
        HydraConfig.instance().cfg = {"number": seed}  # pyright: ignore
        handler = logging.FileHandler(tmp_path / f"{seed}.log")
        logging.root.handlers[:] = [handler]
        found = []
        for _ in range(3):
            pause()
            found += [np.random.rand(), float(torch.rand(1)), torch.initial_seed()]
            found += [os.environ["PL_GLOBAL_SEED"], HydraConfig.instance().cfg["number"]]  # pyright: ignore
            logging.root.warning("of %d", seed)
        handler.close()
        return found

    around = logging.root.handlers[:]
    before, config = torch.get_rng_state(), HydraConfig.instance().cfg
    alone = []
    for seed in (1, 2):
        alone.append(draws(seed, lambda: None))
        logging.root.handlers[:] = around
        HydraConfig.instance().cfg = config
    torch.set_rng_state(before)
    os.environ.pop("PL_GLOBAL_SEED")
    steps, place = Lockstep(), iter(range(100))
    works = [lambda seed=seed: draws(seed, lambda: steps.wait(next(place))) for seed in (1, 2)]
    assert steps.run(works) == alone
    assert torch.equal(torch.get_rng_state(), before)
    assert HydraConfig.instance().cfg is config and "PL_GLOBAL_SEED" not in os.environ
    assert logging.root.handlers == around
    assert (tmp_path / "1.log").read_text().split() == ["of", "1"] * 6


def test_the_first_that_still_runs_leads() -> None:
    steps, led = Lockstep(), []
    steps.advance = lambda position: None

    def work(n: int):
        def run() -> None:
            led.append(steps.leads)
            for _ in range(n):
                steps.wait(0)
            led.append(steps.leads)

        return run

    steps.run([work(1), work(2)])
    assert led == [True, False, True, True]
