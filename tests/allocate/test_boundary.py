"""What reaches the compiled core from outside: a ValueError or TypeError for whatever does not fit, and no crash."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench import _core

GOOD = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
PLENTY = 2**30


def run(table: object = GOOD, scope: object = (0, 1), sizes: object = (2, 3), constant: object = 0.0) -> object:
    objective = _core.Functional([(scope, table)], constant)  # type: ignore[list-item, arg-type]
    return _core.solve(sizes, objective, [], 1.0, PLENTY)  # type: ignore[arg-type]


def with_entry(value: float) -> np.ndarray:
    table = GOOD.copy()
    table[1, 2] = value
    return table


REFUSED: list[tuple[str, Callable[[], object]]] = [
    ("NaN", lambda: run(with_entry(np.nan))),
    ("infinite", lambda: run(with_entry(np.inf))),
    ("negative", lambda: run(with_entry(-1e-9))),
    ("float32", lambda: run(GOOD.astype(np.float32))),
    ("int64", lambda: run(GOOD.astype(np.int64))),
    ("complex", lambda: run(GOOD.astype(complex))),
    ("objects", lambda: run(GOOD.astype(object))),
    ("text", lambda: run(np.array([["a", "b", "c"]] * 2))),
    ("other byte order", lambda: run(GOOD.astype(">f8"))),
    ("Fortran order", lambda: run(np.asfortranarray(GOOD))),
    ("every other column", lambda: run(np.ones((2, 6))[:, ::2])),
    ("reversed", lambda: run(GOOD[::-1])),
    ("broadcast", lambda: run(np.broadcast_to(np.ones(3), (2, 3)))),
    ("too small", lambda: run(np.ones((2, 2)))),
    ("too large", lambda: run(np.ones((3, 3)))),
    ("axes swapped", lambda: run(np.ones((3, 2)))),
    ("flat", lambda: run(np.ones(6))),
    ("empty", lambda: run(np.ones((0, 3)), sizes=(0, 3))),
    ("zero-dimensional", lambda: run(np.array(1.0), scope=())),
    ("no scope", lambda: run(scope=())),
    ("unknown variable", lambda: run(scope=(0, 2))),
    ("negative variable", lambda: run(scope=(0, -1))),
    ("variable twice", lambda: run(np.ones((2, 2)), scope=(0, 0))),
    ("four variables", lambda: run(np.ones((1, 1, 1, 1)), scope=(0, 1, 2, 3), sizes=(1, 1, 1, 1))),
    ("no variables", lambda: run(sizes=())),
    ("negative size", lambda: run(sizes=(2, -3))),
    ("huge size", lambda: run(sizes=(2, 2**31 - 1))),
    ("size beyond an int", lambda: run(sizes=(2, 2**40))),
    ("fractional size", lambda: run(sizes=(2, 3.5))),
    ("negative constant", lambda: run(constant=-1.0)),
    ("NaN constant", lambda: run(constant=np.nan)),
    ("NaN limit", lambda: _core.solve([1], _core.Functional([]), [_core.Functional([], 0.0, np.nan)], 1.0, PLENTY)),
    ("NaN time", lambda: _core.solve([1], _core.Functional([]), [], np.nan, PLENTY)),
    ("negative time", lambda: _core.solve([1], _core.Functional([]), [], -1.0, PLENTY)),
    ("negative memory", lambda: _core.solve([1], _core.Functional([]), [], 1.0, -1)),
    ("no such constraint", lambda: _core.sweep([1], _core.Functional([]), [], 0, [1.0], 1.0, PLENTY)),
    (
        "NaN in a sweep",
        lambda: _core.sweep([1], _core.Functional([]), [_core.Functional([])], 0, [np.nan], 1.0, PLENTY),
    ),
    ("a list for a table", lambda: run([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])),
    ("None for a table", lambda: run(None)),
]


@pytest.mark.parametrize("call", [case[1] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_refused(call: Callable[[], object]) -> None:
    with pytest.raises((ValueError, TypeError)):
        call()


def test_read_only_and_infinite_time_are_fine() -> None:
    table = GOOD.copy()
    table.setflags(write=False)
    assert run(table).value == 1.0  # type: ignore[attr-defined]
    assert _core.solve([1], _core.Functional([]), [], np.inf, PLENTY).best == [0]


def test_a_very_large_table_is_solved() -> None:
    table = np.arange(4_000_000, dtype=float).reshape(2000, 2000)[::-1, ::-1].copy()
    assert run(table, sizes=(2000, 2000)).best == [1999, 1999]  # type: ignore[attr-defined]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.integers(-1, 4), max_size=4),
    st.lists(st.tuples(st.lists(st.integers(-1, 4), max_size=4), st.lists(st.integers(0, 4), max_size=4)), max_size=4),
    st.sampled_from(["<f8", "<f4", ">f8", "<i8"]),
    st.sampled_from([0.0, 1.0, 1e300, 1e-300, -1.0, np.nan, np.inf]),
    st.sampled_from([-1.0, 0.0, 5.0, 1e308, np.inf, -np.inf, np.nan]),
)
def test_whatever_comes_there_is_an_answer_or_a_refusal(
    sizes: list[int], terms: list[tuple[list[int], list[int]]], kind: str, fill: float, limit: float
) -> None:
    try:
        with np.errstate(invalid="ignore", over="ignore"):
            tables = [(scope, np.full(shape, fill).astype(kind)) for scope, shape in terms]
        functional = _core.Functional(tables, 0.0, limit)
        solution = _core.solve(sizes, functional, [functional], 5.0, PLENTY)
    except (ValueError, TypeError):
        return
    assert len(solution.best) in (0, len(sizes))
