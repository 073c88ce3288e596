"""Results side by side: the rows of their table, and accuracy against cost for each score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workbench.report import units
from workbench.report.figures import curves, scatter

Row = Mapping[str, Any]
# what a result is called that holds its budget and computes what it should; any other state is a warning
DONE = "done"


def view(rows: Sequence[Row]) -> dict[str, Any]:
    """The texts of every row, and a figure for each score that some rows have.

    Args:
        rows: of each result ``run``, ``link`` (its page, or an empty text), ``state``, ``model``, ``method``,
            ``budget``, ``score``, ``before``, ``after``, ``difference``, ``low``, ``high`` (of the difference),
            ``macs`` and ``params`` (shares that are left, None where not known), and ``cost`` (MACs before and after,
            or None).
    """
    places = {key: place for place, key in enumerate(dict.fromkeys(_series(row) for row in rows))}
    known = [(index, row) for index, row in enumerate(rows) if row["after"] is not None and row["macs"] is not None]
    by_score = {row["score"]: [(i, one) for i, one in known if one["score"] == row["score"]] for _, row in known}
    return {
        "rows": [_row(index, row, curves.hue(places[_series(row)], len(places))) for index, row in enumerate(rows)],
        "figures": [_figure(score, some, places) for score, some in by_score.items()],
    }


def _series(row: Row) -> tuple[str, str]:
    return row["model"], row["method"]


def _row(index: int, row: Row, hue: int) -> dict[str, Any]:
    return {
        "number": index + 1,
        "hue": hue,
        "run": row["run"],
        "link": row["link"],
        "state": "" if row["state"] == DONE else row["state"],
        "model": row["model"],
        "method": row["method"],
        "budget": row["budget"],
        "macs": units.percent(row["macs"]),
        "count": units.si(row["cost"][1]) if row["cost"] else "",
        "params": units.percent(row["params"]),
        "score": row["score"] or units.NONE,
        "before": units.score(row["before"]),
        "after": units.score(row["after"]),
        "difference": units.signed(row["difference"]),
        "interval": _interval(row),
    }


def _interval(row: Row) -> str:
    if row["low"] is None or row["high"] is None:
        return ""
    return units.spread(row["difference"], row["low"], row["high"])


def _figure(score: str, rows: Sequence[tuple[int, Row]], places: Mapping[tuple[str, str], int]) -> dict[str, Any]:
    """Accuracy against cost: as a share where there is one model, else in MACs if all are known."""
    absolute = len({row["model"] for _, row in rows}) > 1 and all(row["cost"] for _, row in rows)
    points = [
        scatter.Dot(
            index, places[_series(row)], curves.hue(places[_series(row)], len(places)),
            row["cost"][1] if absolute else row["macs"], row["after"],
            None if row["low"] is None else (row["before"] + row["low"], row["before"] + row["high"]),
        )
        for index, row in rows
    ]  # fmt: skip
    originals = {(row["cost"][0] if absolute else 1.0, row["before"]) for _, row in rows}
    return {
        "score": score,
        "absolute": absolute,
        "drawing": scatter.plot(points, sorted(originals), units.si if absolute else units.whole_percent),
    }
