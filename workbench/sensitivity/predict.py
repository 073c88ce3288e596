"""Predicted losses: the output error of a group's path, scaled to the losses that were measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from workbench.sensitivity.curves import TRUST, Curve, Point

Pairs = list[tuple[Point, float]]  # a measured point and the least-squares error at its width


def with_predictions(curves: Sequence[Curve]) -> tuple[Curve, ...]:
    """Curves whose points hold what the errors of their paths let expect.

    A loss is taken as proportional to the output error, give or take ``TRUST`` of it. Each group's factor is fitted to
    its own points, with the factor of all groups together as one more observation.
    """
    pairs = {curve.group: _pairs(curve) for curve in curves}
    pooled = _factor([pair for some in pairs.values() for pair in some], None)
    if pooled is None:
        return tuple(curves)
    return tuple(_predicted(curve, _factor(pairs[curve.group], pooled) or pooled) for curve in curves)


def _pairs(curve: Curve) -> Pairs:
    errors = [curve.error(point.kept) for point in curve.points]
    return [(p, e) for p, e in zip(curve.points, errors, strict=True) if e and p.degradation is not None]


def _predicted(curve: Curve, factor: float) -> Curve:
    errors = [curve.error(point.kept) for point in curve.points]
    points = [p if e is None else replace(p, predicted=factor * e) for p, e in zip(curve.points, errors, strict=True)]
    return replace(curve, points=tuple(points))


def _factor(pairs: Pairs, pooled: float | None) -> float | None:
    """Loss per error by weighted least squares through zero; None where nothing is lost.

    The variance of a point is its sampling variance plus that of the proportionality, which needs the factor: hence two
    rounds.
    """
    if not pairs:
        return pooled
    losses = np.array([point.degradation for point, _ in pairs], float)
    errors = np.array([error for _, error in pairs])
    deviations = np.array([point.deviation or 0.0 for point, _ in pairs])
    factor = pooled or float((losses * errors).sum() / (errors**2).sum())
    for _ in range(2):
        if factor <= 0:
            return None
        weights = 1 / (deviations**2 + (TRUST * factor * errors) ** 2)
        prior = 0.0 if pooled is None else pooled**-2
        fitted = (weights * losses * errors).sum() + prior * (pooled or 0.0)
        factor = float(fitted / ((weights * errors**2).sum() + prior))
    return factor if factor > 0 else None
