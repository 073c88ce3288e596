"""Every schedule at 20 points against its formula, to 1e-12, and at points that others have published."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from workbench import sparsify as sp

POINTS = [n / 19 for n in range(20)]
S0, ST, BEGIN, END = 0.1, 0.9, 30.0, 130.0

FORMULAS: list[tuple[Callable[..., sp.Schedule], Callable[[float], float]]] = [
    (sp.Linear, lambda x: S0 * (1 - x) + ST * x),
    (sp.Cubic, lambda x: ST - (ST - S0) * (1 - 3 * x + 3 * x**2 - x**3)),
    (sp.Polynomial, lambda x: ST - (ST - S0) * (1 - x) ** 3),
    (lambda *a: sp.Polynomial(*a, power=1 / 3), lambda x: S0 + (ST - S0) * (1 - (1 - x) ** (1 / 3))),
    (sp.Late, lambda x: S0 + (ST - S0) * x * x * x),
    (sp.Exponential, lambda x: 1 - math.exp((1 - x) * math.log(1 - S0) + x * math.log(1 - ST))),
    (sp.Cosine, lambda x: S0 + (ST - S0) * (1 - math.sin(math.pi / 2 * (1 - x)))),
]


@pytest.mark.parametrize("case", range(len(FORMULAS)))
def test_the_formula_at_twenty_points(case: int) -> None:
    make, formula = FORMULAS[case]
    schedule = make(ST, END, BEGIN, S0)
    for x in POINTS:
        assert schedule(BEGIN + x * (END - BEGIN)) == pytest.approx(formula(x), abs=1e-12)
    assert schedule(BEGIN - 1) == 0
    assert schedule(END) == schedule(END + 99) == ST
    values = [schedule(BEGIN + t) for t in range(100)]
    assert values == sorted(values)


@pytest.mark.parametrize(
    ("make", "quarter", "half"),
    [
        (sp.Cubic, 0.5203, 0.7875), (sp.Exponential, 0.4377, 0.6838), (sp.Cosine, 0.0685, 0.2636),
        (sp.Linear, 0.225, 0.45),
    ],
)  # fmt: skip
def test_known_points_from_nothing_to_ninety_percent(
    make: Callable[..., sp.Schedule], quarter: float, half: float
) -> None:
    schedule = make(0.9, 100)
    assert schedule(25) == pytest.approx(quarter, abs=5e-5)
    assert schedule(50) == pytest.approx(half, abs=5e-5)


def test_agp_as_it_was_published() -> None:
    """NNI counts n pruning steps of dt from t0: s_t = s_f + (s_i - s_f) (1 - (t - t0) / (n dt))^3."""
    schedule = sp.Cubic(0.8, end=10 + 5 * 20, begin=10, initial=0.2)
    for k in range(6):
        assert schedule(10 + 20 * k) == pytest.approx(0.8 + (0.2 - 0.8) * (1 - k * 20 / (5 * 20)) ** 3, abs=1e-12)


def test_movement_waits_then_grows_then_stays() -> None:
    total, warm, cool, final = 1000, 200, 300, 0.85
    schedule = sp.Cubic(final, end=total - cool, begin=warm)
    for step in range(0, total + 1, 50):
        if step < warm:
            expected = 0.0
        elif step > total - cool:
            expected = final
        else:
            expected = final - final * (1 - (step - warm) / (total - warm - cool)) ** 3
        assert schedule(step) == pytest.approx(expected, abs=1e-12)


def test_acdc_alternates_and_ends_compressed() -> None:
    schedule = sp.Alternating(0.9, end=26, compressed=5, dense=5, begin=6)
    dense = [*range(6), *range(11, 16), *range(21, 26)]
    assert [time for time in range(40) if schedule(time) == 0] == dense
    assert {schedule(time) for time in range(40)} == {0.0, 0.9}


def test_rounds_take_the_same_share_of_the_rest() -> None:
    schedule = sp.Rounds(1 - 0.8**3, rounds=3, length=10)
    assert [round(schedule(time), 12) for time in (0, 9, 10, 19, 20, 29, 30, 99)] == [
        0, 0, 0.2, 0.2, 0.36, 0.36, 0.488, 0.488,
    ]  # fmt: skip
    assert schedule(3 * 10) == 1 - 0.8**3


def test_one_shot() -> None:
    assert [sp.OneShot(0.5, begin=3)(time) for time in (0, 2.9, 3, 4)] == [0, 0, 0.5, 0.5]


def test_the_share_that_regrows_falls_as_a_cosine() -> None:
    regrow = sp.Regrow(every=10, until=100, share=0.3)
    for x in POINTS[:-1]:
        assert regrow.fraction(100 * x) == pytest.approx(0.15 * (1 + math.cos(math.pi * x)), abs=1e-12)
    assert regrow.fraction(100) == 0


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: sp.Cubic(1.2, 10), r"sparsity shall go from 0.0 to 1.2"),
        (lambda: sp.Cubic(0.5, 10, initial=0.6), r"sparsity shall go from 0.6 to 0.5"),
        (lambda: sp.Linear(0.5, 10, begin=10), r"begins at 10 and ends at 10; it must end later"),
        (lambda: sp.Alternating(0.9, 10, 0, 5), r"has no phases"),
        (lambda: sp.Rounds(1.0, 3, 5), r"final is a share below 1"),
        (lambda: sp.Regrow(0, 5), r"every and until are above 0"),
        (lambda: sp.Recipe((), unit="hours"), r"a recipe counts 'hours'; give steps or epochs"),
        (lambda: sp.Prune(sp.OneShot(0.5), every=-1), r"give 0 or more"),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[[], object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()
