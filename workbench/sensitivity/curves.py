"""Sensitivity curves as a value: points with intervals, a monotone fit, interpolation to any width."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import isotonic_regression

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from workbench.select import Path

NORMAL = 1.959964  # standard errors on each side of a 95 % interval
TRUST = 0.5  # the standard error of a prediction, as a share of it


@dataclass(frozen=True)
class Point:
    """The score with only ``kept`` units of one group.

    ``degradation`` is how much it lies below the original's, on the same samples; ``low`` and ``high`` bound it with
    95 % confidence where there is more than one sample. ``predicted`` is what the least-squares error of the layers
    that read the group lets expect, None where the criterion knows no error. ``failed`` says why there are no numbers.
    """

    share: float
    kept: int
    score: float | None
    degradation: float | None
    low: float | None = None
    high: float | None = None
    predicted: float | None = None
    failed: str | None = None

    @property
    def deviation(self) -> float | None:
        """The standard error of the degradation, None where it is not known."""
        return None if self.low is None or self.high is None else (self.high - self.low) / (2 * NORMAL)

    @classmethod
    def measured(cls, kept: int, units: int, dense: np.ndarray, scores: np.ndarray | str) -> Point:
        """From the scores of the same samples; a failure where they are not numbers, or where a text says why."""
        share = kept / units
        if isinstance(scores, str):
            return cls(share, kept, None, None, failed=scores)
        if not np.isfinite(scores).all():
            bad = scores[~np.isfinite(scores)][0]
            return cls(share, kept, None, None, failed=f"the evaluation returned {bad}")
        differences = dense - scores
        loss = float(differences.mean())
        if len(differences) < 2:
            return cls(share, kept, float(scores.mean()), loss)
        margin = NORMAL * float(differences.std(ddof=1)) / math.sqrt(len(differences))
        return cls(share, kept, float(scores.mean()), loss, loss - margin, loss + margin)


@dataclass(frozen=True)
class Curve:
    """The points of one group, from the least kept share to the largest, and the order in which its units leave."""

    group: str
    units: int
    points: tuple[Point, ...]
    path: Path

    @cached_property
    def fitted(self) -> tuple[float, ...]:
        """The degradation at each point that was measured, made monotone by isotonic regression and never negative.

        A measurement and its prediction are first averaged, each weighted by its inverse variance: where few samples
        leave a small loss lost in noise, the prediction still says which width costs more.
        """
        found = [_best_guess(point) for point in self.points if point.failed is None]
        if not found:
            return ()
        fit = isotonic_regression(found, increasing=False).x
        return tuple(float(value) for value in np.maximum(fit, 0.0))

    def error(self, kept: int) -> float | None:
        """The least-squares output error with so many units, None where the criterion knows none."""
        return self.path.errors[self.units - kept] if self.path.errors else None

    def at(self, kept: int) -> float:
        """The degradation with any number of units, interpolated between measured ones; 0 with all of them.

        Between two measured widths the loss follows the least-squares error where that is known, else a straight line.
        Infinite below the smallest share that was measured: nothing is known there.
        """
        counts = [point.kept for point in self.points if point.failed is None]
        if kept < self.units and (not counts or kept < counts[0]):
            return math.inf
        known = [*counts, self.units]
        errors = [self.error(count) for count in (*known, kept)]
        if any(error is None for error in errors):
            return float(np.interp(kept, known, [*self.fitted, 0.0]))
        *places, place = errors  # falling, as the widths rise
        return float(np.interp(place, places[::-1], [0.0, *self.fitted[::-1]]))  # type: ignore[arg-type]  # no None here

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        fitted = iter(self.fitted)
        points = [asdict(p) | {"fitted": None if p.degradation is None else next(fitted)} for p in self.points]
        return {"group": self.group, "units": self.units, "points": points}


def _best_guess(point: Point) -> float:
    measured, deviation, predicted = point.degradation or 0.0, point.deviation, point.predicted
    if not deviation or not predicted:
        return measured
    precisions = (deviation**-2, (TRUST * predicted) ** -2)
    return (precisions[0] * measured + precisions[1] * predicted) / sum(precisions)


@dataclass(frozen=True)
class SensitivityCurves:
    """One curve a channel group."""

    metric: str
    baseline: float
    samples: int
    fingerprint: str
    curves: tuple[Curve, ...]

    def __iter__(self) -> Iterator[Curve]:
        return iter(self.curves)

    def __getitem__(self, group: str) -> Curve:
        for curve in self.curves:
            if curve.group == group:
                return curve
        raise KeyError(f"no curve for {group!r}; there are curves for {', '.join(c.group for c in self.curves)}")

    def __repr__(self) -> str:
        return (
            f"SensitivityCurves({len(self.curves)} groups, {self.metric} on {self.samples} samples, "
            f"original {self.baseline:.4g})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "metric": self.metric, "samples": self.samples, "baseline": self.baseline,
            "groups": [curve.to_dict() for curve in self.curves],
        }  # fmt: skip

    def to_frame(self) -> pd.DataFrame:
        """One row a point."""
        import pandas as pd

        return pd.DataFrame([{"group": c.group, **point} for c in self.curves for point in c.to_dict()["points"]])

    def to_table(self, values: str = "degradation") -> pd.DataFrame:
        """The degradation (or another column of ``to_frame``), one row a group, one column a tenth of the units."""
        frame = self.to_frame()
        frame["share"] = frame["share"].round(1)
        return frame.pivot_table(index="group", columns="share", values=values, sort=False)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Degradation against kept share, one line a group, with intervals. Returns the axes."""
        import matplotlib.pyplot as plt

        ax = ax or plt.subplots(figsize=(8, 5), layout="constrained")[1]
        for curve in self.curves:
            measured = [p for p in curve.points if p.degradation is not None]
            losses = np.array([p.degradation for p in measured], float)
            (line,) = ax.plot([p.share for p in measured], losses, marker="o", markersize=3, label=curve.group)
            bounds = [(p.share, p.low, p.high) for p in measured if p.low is not None and p.high is not None]
            if bounds:
                shares, low, high = np.array(bounds).T
                ax.fill_between(shares, low, high, color=line.get_color(), alpha=0.15)
        ax.set(xlabel="kept share of the units", ylabel=f"loss of {self.metric}", title="Sensitivity")
        ax.legend(fontsize="small", ncols=2)
        return ax

    def _repr_html_(self) -> str:
        return f"<p>{self!r}: loss by kept share</p>{self.to_table().to_html(float_format='{:.4f}'.format)}"
