"""Time, memory, Ctrl-C and threads: what holds while the solver runs and when it is stopped."""

from __future__ import annotations

import itertools
import os
import resource
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.allocation_problems import make
from workbench.allocate import Choice, Exact, LeastWorst, Problem, Resource, Term, solve


def tangle(choices: int = 40, options: int = 8) -> Problem:
    """Every choice coupled with every other by a table without any structure: proving its optimum takes hours."""
    random = np.random.default_rng(0)
    losses = np.sort(random.random((choices, options)))[:, ::-1]
    terms = [
        Term(f"{i}-{j}", (i, j), np.sort(np.sort(random.integers(0, 1000, (options, options)), 0), 1))
        for i, j in itertools.combinations(range(choices), 2)
    ]
    whole = sum(int(term.costs.max()) for term in terms)
    return Problem(
        tuple(Choice(f"c{i}", tuple(range(1, options + 1)), tuple(row)) for i, row in enumerate(losses.tolist())),
        (Resource("cost", tuple(terms), 0, whole // 2),),
    )


def test_out_of_time_gives_a_plan_and_its_gap() -> None:
    start = time.monotonic()
    found = solve(tangle(), Exact(time_limit_s=1.0))
    assert time.monotonic() - start < 20  # generous: the machine may be busy
    assert not found.proven
    assert found.costs["cost"] <= tangle().resources[0].budget
    assert found.bound is not None
    assert found.gap is not None
    assert 0 < found.gap < 0.05
    assert found.bound == pytest.approx(found.degradation * (1 - found.gap))


def test_little_memory_gives_an_honest_bound() -> None:
    problem = make("densenet121", options=8)
    best, found = solve(problem), solve(problem, Exact(memory_limit_bytes=2**20))
    assert best.proven
    assert found.bound is not None
    assert found.bound <= best.degradation <= found.degradation
    assert found.degradation <= 1.01 * found.bound


@pytest.mark.parametrize("objective", [None, LeastWorst()], ids=["least total", "least worst"])
def test_no_time_at_all(objective: LeastWorst | None) -> None:
    problem = tangle() if objective is None else replace(tangle(), objective=objective)
    with pytest.raises(TimeoutError, match="raise the time limit or a budget"):
        solve(problem, Exact(time_limit_s=1e-9))


def test_ctrl_c_is_answered() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with it ignored
    start = time.monotonic()
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            solve(tangle(), Exact(time_limit_s=100))
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - start < 30


def test_other_threads_run_meanwhile() -> None:
    solver = threading.Thread(target=solve, args=(tangle(), Exact(time_limit_s=2.0)))
    solver.start()
    turns = 0
    while solver.is_alive():
        time.sleep(0.01)
        turns += 1
    assert turns > 10


@pytest.mark.parametrize("name", ["resnet50", "densenet121"])
def test_the_same_plan_every_time(name: str) -> None:
    problem = make(name, options=6, share=0.1, resources=2)
    first = solve(problem)
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(solve(problem))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [first] * 3


@pytest.mark.slow
def test_no_leak_over_10_000_solves() -> None:
    problem = make("mobilenetv2", options=4)

    def grown(solves: int) -> int:
        for _ in range(solves):
            solve(problem)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = grown(500)
    assert grown(10_000) - before < 2_000  # kB
