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


@dataclass(frozen=True)
class Point:
    """The score with only ``kept`` units of one group.

    ``degradation`` is how much it lies below the original's, on the same samples; ``low`` and ``high`` bound it with 95 %
    confidence where there is more than one sample. ``failed`` says why there are no numbers.
    """

    share: float
    kept: int
    score: float | None
    degradation: float | None
    low: float | None = None
    high: float | None = None
    failed: str | None = None

    @classmethod
    def measured(cls, share: float, kept: int, dense: np.ndarray, scores: np.ndarray) -> Point:
        """From the scores of the same samples, or a failure where they are not numbers."""
        if not np.isfinite(scores).all():
            bad = scores[~np.isfinite(scores)][0]
            return cls(share, kept, None, None, failed=f"the evaluation returned {bad}")
        differences = dense - scores
        loss = float(differences.mean())
        if len(differences) < 2:
            return cls(share, kept, float(scores.mean()), loss)
        margin = 1.959964 * float(differences.std(ddof=1)) / math.sqrt(len(differences))
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
        """The degradation at each point that was measured, made monotone by isotonic regression and never negative."""
        found = [point.degradation for point in self.points if point.degradation is not None]
        if not found:
            return ()
        fit = isotonic_regression(found, increasing=False).x
        return tuple(float(value) for value in np.maximum(fit, 0.0))

    def at(self, kept: int) -> float:
        """The degradation with any number of units, interpolated between measured ones; 0 with all of them.

        Infinite below the smallest share that was measured: nothing is known there.
        """
        counts = [point.kept for point in self.points if point.failed is None]
        if kept < self.units and (not counts or kept < counts[0]):
            return math.inf
        return float(np.interp(kept, [*counts, self.units], [*self.fitted, 0.0]))

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        fitted = iter(self.fitted)
        points = [asdict(p) | {"fitted": None if p.degradation is None else next(fitted)} for p in self.points]
        return {"group": self.group, "units": self.units, "points": points}


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

    def plot(self, ax: Axes | None = None) -> Axes:
        """Degradation against kept share, one line a group, with intervals. Returns the axes."""
        import matplotlib.pyplot as plt

        ax = ax or plt.subplots(figsize=(8, 5), layout="constrained")[1]
        for curve in self.curves:
            measured = [p for p in curve.points if p.degradation is not None]
            shares, losses = [p.share for p in measured], [p.degradation for p in measured]
            (line,) = ax.plot(shares, losses, marker="o", markersize=3, label=curve.group)
            bounds = [(p.share, p.low, p.high) for p in measured if p.low is not None and p.high is not None]
            if bounds:
                ax.fill_between(*zip(*bounds, strict=True), color=line.get_color(), alpha=0.15)
        ax.set(xlabel="kept share of the units", ylabel=f"loss of {self.metric}", title="Sensitivity")
        ax.legend(fontsize="small", ncols=2)
        return ax

    def _repr_html_(self) -> str:
        table = self.to_frame().pivot_table(index="group", columns="share", values="degradation", sort=False)
        return f"<p>{self!r}: loss by kept share</p>{table.to_html(float_format='{:.4f}'.format)}"
