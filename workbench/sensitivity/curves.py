"""Sensitivity curves as a value: points with intervals, a monotone fit, interpolation to any width."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import isotonic_regression

from workbench import drawing
from workbench.sensitivity.interval import critical, standard_error

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from workbench.factorize import Ladder
    from workbench.select import Path

TRUST = 0.5  # the standard error of a prediction, as a share of it


@dataclass(frozen=True)
class Point:
    """The score with only ``kept`` units of one group.

    ``degradation`` is how much it lies below the original's, on the same ``samples``; ``low`` and ``high`` bound it
    with 95 % confidence, however often the search looked, where there is more than one; ``deviation`` is its standard
    error. ``predicted`` is what the least-squares errors of the layers that read the group let expect, None where there
    are no such layers. ``failed`` says why there is no score; without a reason, none was needed.
    """

    share: float
    kept: int
    score: float | None = None
    degradation: float | None = None
    low: float | None = None
    high: float | None = None
    predicted: float | None = None
    failed: str | None = None
    deviation: float | None = None
    samples: int = 0

    @property
    def known(self) -> bool:
        """Whether it was measured or predicted, and did not fail."""
        return self.failed is None and (self.degradation is not None or self.predicted is not None)

    @classmethod
    def of(
        cls, kept: int, units: int, dense: np.ndarray | None, differences: np.ndarray | str | None, looks: int,
        resolution: float,
    ) -> Point:  # fmt: skip
        """From how much lower each sample scores than with the original, or from the reason why that is not known.

        ``looks`` is how often the interval may be looked at before it is believed, ``resolution`` the least difference
        that samples can have.
        """
        share = kept / units
        if dense is None or differences is None:
            return cls(share, kept)
        if isinstance(differences, str):
            return cls(share, kept, failed=differences)
        loss, count = float(differences.mean()), len(differences)
        score = float(dense.mean()) - loss
        if count < 2:
            return cls(share, kept, score, loss, samples=count)
        deviation = standard_error(differences, resolution)
        margin = critical(count, looks) * deviation
        return cls(share, kept, score, loss, loss - margin, loss + margin, deviation=deviation, samples=count)


@dataclass(frozen=True)
class Curve:
    """The points of one group, from the least kept share to the largest, and the order in which its units leave.

    ``expected`` is the loss that the path lets expect, by the number of units gone, in a unit of its own; empty where
    nothing is known. Of a layer whose rank may be lowered, the units are the places of its ``ladder``.
    """

    group: str
    units: int
    points: tuple[Point, ...]
    path: Path
    expected: tuple[float, ...] = ()
    ladder: Ladder | None = None

    @cached_property
    def fitted(self) -> tuple[float, ...]:
        """The degradation at each point that is known, made monotone by isotonic regression and never negative.

        A measurement and its prediction are first averaged, each weighted by its inverse variance: where few samples
        leave a small loss lost in noise, the prediction still says which width costs more.
        """
        found = [_best_guess(point) for point in self.points if point.known]
        if not found:
            return ()
        fit = isotonic_regression(found, increasing=False).x
        return tuple(float(value) for value in np.maximum(fit, 0.0))

    def point(self, kept: int) -> Point:
        """The point with so many units."""
        return next(point for point in self.points if point.kept == kept)

    def expected_at(self, kept: int) -> float | None:
        """What is expected with so many units, None where nothing is."""
        return self.expected[self.units - kept] if self.expected else None

    def at(self, kept: int) -> float:
        """The degradation with any number of units, interpolated between measured ones; 0 with all of them.

        Between two points the loss follows what is expected where that is known, else a straight line. Infinite below
        the smallest share that is known.
        """
        counts = [point.kept for point in self.points if point.known]
        if kept < self.units and (not counts or kept < counts[0]):
            return math.inf
        known = [*counts, self.units]
        values = [self.expected_at(count) for count in (*known, kept)]
        if any(value is None for value in values):
            return float(np.interp(kept, known, [*self.fitted, 0.0]))
        *places, place = values  # falling, as the widths rise
        return float(np.interp(place, places[::-1], [0.0, *self.fitted[::-1]]))  # type: ignore[arg-type]  # no None here

    def bounds(self, share: float) -> tuple[float, float, float] | None:
        """The loss nearest to a share of the units, and between what it lies; None where none is known."""
        points = list(zip((p for p in self.points if p.known), self.fitted, strict=True))
        if not points:
            return None
        point, fit = min(points, key=lambda pair: abs(pair[0].share - share))
        if point.low is not None and point.high is not None:
            return fit, min(fit, point.low), max(fit, point.high)
        if point.degradation is not None:  # one number for all the data
            return fit, fit, fit
        return fit, (1 - TRUST) * fit, (1 + TRUST) * fit

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        fitted = iter(self.fitted)
        points = [asdict(p) | {"fitted": next(fitted) if p.known else None} for p in self.points]
        return {"group": self.group, "units": self.units, "points": points}


def _best_guess(point: Point) -> float:
    measured, deviation, predicted = point.degradation, point.deviation, point.predicted
    if measured is None:
        return predicted or 0.0
    if not deviation or not predicted:
        return measured
    # of the larger of both: a prediction that is far too small would else be trusted most
    precisions = (deviation**-2, (TRUST * max(predicted, measured)) ** -2)
    return (precisions[0] * measured + precisions[1] * predicted) / sum(precisions)


@dataclass(frozen=True)
class SensitivityCurves:
    """One curve a channel group. ``note`` says what the predictions had to do without."""

    metric: str
    baseline: float
    samples: int
    fingerprint: str
    curves: tuple[Curve, ...]
    note: str = ""

    def __iter__(self) -> Iterator[Curve]:
        return iter(self.curves)

    def __getitem__(self, group: str) -> Curve:
        for curve in self.curves:
            if curve.group == group:
                return curve
        raise KeyError(f"no curve for {group!r}; there are curves for {', '.join(c.group for c in self.curves)}")

    def __repr__(self) -> str:
        ranks = sum(curve.ladder is not None for curve in self)
        which = f"{len(self.curves) - ranks} groups" + (f", ranks of {ranks} layers" if ranks else "")
        return (
            f"SensitivityCurves({which}, {self.metric} on {self.samples} samples, "
            f"original {self.baseline:.4g})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "metric": self.metric, "samples": self.samples, "baseline": self.baseline,
            "groups": [curve.to_dict() for curve in self.curves], "note": self.note,
        }  # fmt: skip

    def to_frame(self) -> pd.DataFrame:
        """One row a point."""
        import pandas as pd

        rows = [{"group": c.group, **point} for c in self.curves for point in c.to_dict()["points"]]
        return pd.DataFrame(rows, columns=["group", *(field.name for field in fields(Point)), "fitted"])

    def to_table(self, values: str = "fitted") -> pd.DataFrame:
        """The fitted loss (or another column of ``to_frame``), one row a group, one column a tenth of the units."""
        frame = self.to_frame()
        frame["share"] = frame["share"].round(1)
        return frame.pivot_table(index="group", columns="share", values=values, sort=False)

    def ranking(self, share: float = 0.5) -> pd.DataFrame:
        """The groups from the least sensitive to the most, by the loss where ``share`` of the units stays.

        ``rank`` is a number where the intervals (or predictions, give or take ``TRUST`` of them) leave no doubt; "2-4"
        is shared by groups that cannot be told from each other. Groups of which nothing is known come last, without.
        """
        import pandas as pd

        known = [(curve.group, *bounds) for curve in self.curves if (bounds := curve.bounds(share)) is not None]
        rows = []
        for group, loss, low, high in sorted(known, key=lambda row: row[1]):
            best = 1 + sum(other[3] < low for other in known)
            worst = len(known) - sum(other[2] > high for other in known)
            rank = str(best) if best == worst else f"{best}-{worst}"
            rows.append({"rank": rank, "group": group, "loss": loss, "low": low, "high": high})
        rest = {curve.group for curve in self.curves} - {row["group"] for row in rows}
        rows += [{"rank": "", "group": curve.group} for curve in self.curves if curve.group in rest]
        return pd.DataFrame(rows, columns=["rank", "group", "loss", "low", "high"])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Degradation against kept share, one line a group, with intervals. Returns the axes.

        Colour is depth in the network, from dark (the input) to light. A band runs from one measured point to the next;
        where a predicted one lies between them, the intervals stand alone.
        """
        ax = drawing.axes(ax, 8, 5)
        for index, (curve, color) in enumerate(zip(self.curves, drawing.shades(len(self.curves)), strict=True)):
            known = [p for p in curve.points if p.known]
            shares = [p.share for p in known]
            losses, low, high = np.array([(p.degradation, p.low, p.high) for p in known], float).reshape(-1, 3).T
            dashes = drawing.DASHES[index % len(drawing.DASHES)]
            ax.plot(shares, curve.fitted, dashes, color=color, label=drawing.shown(curve.group))
            ax.plot(shares, losses, "o", markersize=3, color=color)
            ax.fill_between(shares, low, high, color=color, alpha=0.15)
            ax.vlines(shares, low, high, color=color, linewidth=0.8)
        ax.set_title("Sensitivity")
        ax.set_xlabel("kept share of the units")
        ax.set_ylabel(f"loss of {self.metric}", parse_math=False)
        if self.curves:
            for text in ax.legend(fontsize="small", ncols=2).get_texts():
                text.set_parse_math(False)
        return ax

    def plot_heat(self, ax: Axes | None = None) -> Axes:
        """Degradation as a heat map, one row a group, one column a tenth of its units; root scale. Returns the axes.

        Where nothing is known the paper shows.
        """
        from matplotlib.colors import PowerNorm

        table = self.to_table()
        shares = sorted(table.columns, reverse=True)  # as in the report: from all units to few
        ax = drawing.axes(ax, 8, drawing.tall(len(table)))
        losses = table[shares].to_numpy(float)
        image = ax.imshow(losses, aspect="auto", cmap=drawing.HEAT, norm=PowerNorm(0.5, vmin=0.0))
        drawing.name_rows(ax, list(table.index))
        ax.set_xticks(range(len(shares)), [f"{share:.0%}" for share in shares])
        ax.set_xlabel("kept share of the units")
        ax.set_title(f"loss of {self.metric}", parse_math=False, fontsize="medium")  # beside the bar there is no room
        ax.figure.colorbar(image, ax=ax)
        return ax

    def _repr_html_(self) -> str:
        from workbench.report import notebook

        ranking = self.ranking()
        return notebook.curves(self.to_dict(), dict(zip(ranking["group"], ranking["rank"], strict=True)))
