"""Interactions: what groups lose together is not the sum of what each loses alone.

Around a plan each group is moved a step to either side while the others stay as the plan has them. How much more that
changes the loss than the group's curve says is its factor; the curves are scaled by it and the widths chosen anew. What
the new plan is worth is seen on the model that it makes, so that no plan is returned that loses more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from workbench.factorize.ladder import LADDER
from workbench.plan import Plan
from workbench.sensitivity import Point, Search, SensitivityCurves
from workbench.sensitivity.candidate import Widths

STEP = 0.1  # of a group's units
SAMPLES = 512  # on which moves are compared
DAMPING = 0.5  # exponent of the factors at first: moves are repaired side by side, plans one layer after another
LEAST_DAMPING = 0.1
LEAST_FACTOR = 0.05
LEAST_SLOPE = 0.1  # of a curve, beside what a group of the plan loses on average

Factors = dict[str, float]


def replan(
    search: Search, plan: Plan, choose: Callable[[SensitivityCurves], Plan], lost: Callable[[Plan], float], *,
    evaluations: int,
) -> Plan:  # fmt: skip
    """The plan under the same budget that loses least in earnest, of those that are tried.

    Parameters
    ----------
    search : knows the curves, and measures several groups at once
    plan : to begin with
    choose : the best plan under the same budget for other curves
    lost : how much the score falls on the model that a plan makes
    evaluations : how many models may be scored in all, moves (on ``SAMPLES`` samples) and plans (on all)

    Raises
    ------
    ValueError
        The plan changes what the search may not.
    """
    if strange := [name for name, _ in plan.places if name not in search.paths]:
        raise ValueError(
            f"the plan changes {', '.join(strange)}, of which this search knows nothing; leave it out of the plan, or "
            "make a study whose methods= and ignore= allow it"
        )
    known = search.curves()
    groups = [curve for curve in known if not curve.ladder]
    whole = {curve.group: curve.path.kept(curve.units) for curve in groups}
    plan = replace(plan, kept={**whole, **plan.kept}, units={curve.group: curve.units for curve in groups})
    best, least = plan, lost(plan)
    curves = _sloping(known, LEAST_SLOPE * abs(least) / max(1, len(plan.places)))
    left, damping = evaluations - 1, DAMPING
    tried = {best.places}
    factors: Factors | None = None
    while damping >= LEAST_DAMPING:
        if factors is None:
            moves = _moves(search, best, curves, (left - 2) // 2)
            if not moves:
                break
            factors = _factors(search, best, curves, moves)
            left -= 1 + sum(map(len, moves.values()))
        scaled = _scaled(curves, {name: factor**damping for name, factor in factors.items()})
        found = choose(scaled)
        if found.places in tried:
            damping /= 2
            continue
        if left < 1:
            break
        tried.add(found.places)
        kept = _counts(found, known)
        expected = sum(curve.at(kept[curve.group]) for curve in known)
        left -= 1
        try:
            value = lost(found)
        except Exception:  # the user's score raises anything; what was found before still stands
            value = math.inf
        if value < least:
            best, least, factors = replace(found, degradation=expected, gap=None), value, None
        else:
            damping /= 2
    return replace(best, lost=least)


def _counts(plan: Plan, curves: SensitivityCurves) -> dict[str, int]:
    """What each curve's choice keeps in a plan."""
    places = dict(plan.places)
    return {curve.group: places.get(curve.group, curve.units) for curve in curves}


def made_by(search: Search, plan: Plan) -> bool:
    """Whether a plan is what the search makes of its places: other units and other forms may have the same ones."""
    for name, units in plan.cut.items():
        if name not in search.paths or search.paths[name].kept(len(units)) != tuple(units):
            return False
    for layer, rank in plan.ranks.items():
        ladder = search.ladders.get(f"{layer}{LADDER}")
        form = ladder.form(rank.place) if ladder else None
        if form is None or (form.method.name, form.rank) != (rank.method, rank.rank):
            return False
    return True


def _moves(search: Search, plan: Plan, curves: SensitivityCurves, most: int) -> dict[str, list[int]]:
    """Of as many groups as can be afforded, those that cost most first, the widths to either side of the plan's."""
    counts = _counts(plan, curves)
    costly = sorted(curves, key=lambda curve: -curve.at(counts[curve.group]))
    moves = {}
    for curve in costly[: max(0, most)]:
        kept, step = counts[curve.group], max(1, round(STEP * curve.units))
        widths = {max(search.paths[curve.group].least, kept - step), min(curve.units, kept + step)} - {kept}
        moves[curve.group] = sorted(width for width in widths if np.isfinite(curve.at(width)))
    return {name: widths for name, widths in moves.items() if widths}


def _factors(search: Search, plan: Plan, curves: SensitivityCurves, moves: Mapping[str, list[int]]) -> Factors:
    """How much more each group's moves change the loss than its curve says."""
    here = _counts(plan, curves)

    def moved(name: str, width: int) -> Widths:
        counts = here | {name: width}
        return tuple((group, kept) for group, kept in counts.items() if kept < curves[group].units)

    several = [plan.places, *(moved(name, width) for name, widths in moves.items() for width in widths)]
    search.measured.add_until([some for some in dict.fromkeys(several) if some], SAMPLES)
    before = _loss(search, plan.places)
    factors = {}
    for name, widths in moves.items():
        curve = curves[name]
        changes = [(_loss(search, moved(name, w)) - before, curve.at(w) - curve.at(here[name])) for w in widths]
        known = [(real, told) for real, told in changes if np.isfinite(real) and told]
        if known:
            real = sum(real * np.sign(told) for real, told in known)
            factors[name] = max(LEAST_FACTOR, float(real / sum(abs(told) for _, told in known)))
    return factors


def _loss(search: Search, widths: Widths) -> float:
    """NaN where it could not be scored."""
    if not widths:
        return 0.0
    differences = search.measured.differences(widths)
    return float("nan") if isinstance(differences, str) else float(differences.mean())


def _sloping(curves: SensitivityCurves, least: float) -> SensitivityCurves:
    """Curves that fall by so much at least from no units to all: of one that is flat, no factor makes anything."""

    def more(point: Point, value: float | None) -> float | None:
        return None if value is None else value + least * (1 - point.share)

    return _changed(curves, lambda _, p: replace(p, degradation=more(p, p.degradation), predicted=more(p, p.predicted)))


def _scaled(curves: SensitivityCurves, factors: Factors) -> SensitivityCurves:
    def scaled(group: str, point: Point) -> Point:
        def times(value: float | None) -> float | None:
            return None if value is None else factors.get(group, 1.0) * value

        return replace(
            point, degradation=times(point.degradation), predicted=times(point.predicted),
            deviation=times(point.deviation),
        )  # fmt: skip

    return _changed(curves, scaled)


def _changed(curves: SensitivityCurves, change: Callable[[str, Point], Point]) -> SensitivityCurves:
    return replace(curves, curves=tuple(
        replace(curve, points=tuple(change(curve.group, point) for point in curve.points)) for curve in curves
    ))  # fmt: skip
