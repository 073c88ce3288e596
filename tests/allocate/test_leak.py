"""No memory is lost: ten thousand solves, answered and refused, leave the process as large as it was."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from workbench import _core
from workbench.allocate import Choice, Problem, Resource, Term, Unreachable, front, round_ranks, solve

STATM = Path("/proc/self/statm")
LEAST = 24  # bytes: a leak of one pointer's length a solve would show


def resident() -> int:
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def problem(budget: float) -> Problem:
    choices = tuple(Choice(f"c{k}", (1, 2, 3, 4), (0.9, 0.4, 0.1, 0.0)) for k in range(6))
    options = choices[0].options
    terms = tuple(Term.product(f"l{k}", (k, k + 1), (options, options), 3) for k in range(5))
    return Problem(choices, (Resource("macs", terms, 1, budget),))


def some() -> None:
    """An answer, a sweep, a budget out of reach, and a table that is refused."""
    solve(problem(120))
    front(problem(120), "macs", [100, 150])
    with suppress(Unreachable):
        solve(problem(2))
    with suppress(ValueError):
        _core.solve([2], _core.Functional([((0,), np.array([1.0, np.nan]))]), [], 1.0, 2**30)
    round_ranks([2.5, 3.5], [1, 2], 9, 1, [4, 4])


@pytest.mark.skipif(not STATM.exists(), reason="the process's size is read from /proc, which Linux has")
def test_ten_thousand_solves_leave_nothing_behind() -> None:
    for _ in range(300):  # whatever is allocated once is there
        some()
    before = resident()
    for _ in range(2_500):  # four calls of the solver each
        some()
    assert resident() - before < 10_000 * LEAST + 2**20
