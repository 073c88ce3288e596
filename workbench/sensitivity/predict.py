"""Predicted losses: what the least-squares errors of a group's path let expect, in the scale of what was measured.

Two things are known at every width without evaluating anything. The relative output error of the layers that read the
group saturates as the network does, but does not know which layer matters. The second order of the loss (the error in
the metric of its Fisher information) knows that, but grows without end. Over and under ranking cancel in their
geometric mean, which ranks losses within a layer and across layers better than either (``benchmarks/search.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from workbench.select import Path
from workbench.sensitivity.curves import TRUST, Curve, Point

Pairs = list[tuple[Point, float]]  # a measured point and what was expected at its width


def expected(paths: Mapping[str, Path]) -> dict[str, tuple[float, ...]]:
    """For each group, by the number of units gone, the loss in nats a sample; a group without errors has none.

    Where no path knows the loss's second order, the unit is the output's variance.
    """
    ratios = [loss / error for path in paths.values() for error, loss in zip(path.errors, path.losses, strict=False)
              if error > 0 and loss > 0]  # fmt: skip
    typical = float(np.median(ratios)) if ratios else 1.0
    found = {}
    for name, path in paths.items():
        errors = np.array(path.errors)
        losses = np.array(path.losses) if path.losses else typical * errors
        found[name] = tuple(float(value) for value in np.sqrt(typical * errors * losses))
    return found


def with_predictions(curves: Sequence[Curve]) -> tuple[Curve, ...]:
    """Curves whose points hold what was expected, in the unit of what was measured.

    A loss is taken as proportional to what was expected, give or take ``TRUST`` of it. Each group's factor is fitted to
    its own points, with the factor of all groups together as one more observation. Where nothing was measured the unit
    stays.
    """
    pairs = {curve.group: _pairs(curve) for curve in curves}
    if not any(pairs.values()):
        return tuple(_predicted(curve, 1.0) for curve in curves)
    pooled = _factor([pair for some in pairs.values() for pair in some], None)
    if pooled is None:
        return tuple(curves)
    return tuple(_predicted(curve, _factor(pairs[curve.group], pooled) or pooled) for curve in curves)


def _pairs(curve: Curve) -> Pairs:
    values = [(point, curve.expected_at(point.kept)) for point in curve.points]
    return [(point, value) for point, value in values if value and point.degradation is not None]


def _predicted(curve: Curve, factor: float) -> Curve:
    values = [curve.expected_at(point.kept) for point in curve.points]
    points = [p if v is None else replace(p, predicted=factor * v) for p, v in zip(curve.points, values, strict=True)]
    return replace(curve, points=tuple(points))


def _factor(pairs: Pairs, pooled: float | None) -> float | None:
    """Loss measured per loss expected, by weighted least squares through zero; None where nothing is lost.

    The variance of a point is its sampling variance plus that of the proportionality, which needs the factor: hence two
    rounds.
    """
    if not pairs:
        return pooled
    losses = np.array([point.degradation for point, _ in pairs], float)
    values = np.array([value for _, value in pairs])
    deviations = np.array([point.deviation or 0.0 for point, _ in pairs])
    factor = pooled or float((losses * values).sum() / (values**2).sum())
    for _ in range(2):
        if factor <= 0:
            return None
        weights = 1 / (deviations**2 + (TRUST * factor * values) ** 2)
        prior = 0.0 if pooled is None else pooled**-2
        fitted = (weights * losses * values).sum() + prior * (pooled or 0.0)
        factor = float(fitted / ((weights * values**2).sum() + prior))
    return factor if factor > 0 else None
