"""Where did it come from: curves, and the heat map that is also the table of all points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any

from workbench.report import units
from workbench.report.figures import curves as figure
from workbench.report.figures import heat
from workbench.report.scale import RootScale
from workbench.report.view import words

# Where all channels are kept nothing is lost: every curve starts here, and no sweep measures it.
_DENSE = (1.0, 0.0)
# With more columns than this not every one has room for its label.
_MANY = 12


def view(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """The curves and the heat map, or None where the plan was made without curves.

    Without groups (None) there is no plan yet, and nothing is marked as chosen. Curve and row of a group have the same
    place, by which the page links them.
    """
    swept = result["curves"]
    if swept is None:
        return None
    planned = result["groups"] is not None
    chosen = widths(result) if planned else {}
    kept = [chosen.get(group["group"], (group["units"], group["units"])) for group in swept["groups"]]
    curves = [_curve(group, width, planned) for group, width in zip(swept["groups"], kept, strict=True)]
    measured = (
        point["degradation"] for group in swept["groups"] for point in _known(group) if point["degradation"] is not None
    )
    scale = RootScale.over([*measured, *(value for curve in curves for _, value in curve.line)])
    # groups of different sizes have different shares: each point stands in the column of the nearest round one
    steps = 10 if max((len(group["points"]) for group in swept["groups"]), default=0) < 10 else 20
    shares = sorted({_column(p, steps) for group in swept["groups"] for p in group["points"]}, reverse=True)
    return {
        "planned": planned,
        "ranks": any(group["group"].endswith("/rank") for group in swept["groups"]),
        "metric": swept["metric"],
        "samples": words.samples(swept["samples"]),
        "baseline": units.score(swept["baseline"]),
        "figure": figure.plot(curves, min(curve.line[-1][0] for curve in curves), scale) if curves else "",
        "shares": [f"{100 * share:.4g}" for share in shares],
        "dense": len(shares) > _MANY,
        "ramp": heat.ramp(),
        "largest": units.loss(scale.high),
        "guesses": any(
            p["degradation"] is None and p["fitted"] is not None for g in swept["groups"] for p in g["points"]
        ),
        "note": swept.get("note", ""),
        "rows": [
            _row(index, group, curve, width, (shares, steps), scale, len(curves))
            for index, (group, curve, width) in enumerate(zip(swept["groups"], curves, kept, strict=True))
        ],
    }


def widths(result: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Of each curve how many units there are, and how many the plan keeps; of a layer's ranks its places."""
    groups = {group["group"]: (group["units"], len(group["kept"])) for group in result["groups"]}
    return groups | {curve: (units, place) for curve, units, place in _ladders(result)}


def _ladders(result: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    """The curves of ranks, with how many places each has and which was chosen: the last is the layer as it was."""
    places = {f"{layer}/rank": rank["place"] for layer, rank in result.get("ranks", {}).items()}  # older ones have none
    groups = {group["group"] for group in result["groups"]}
    swept = result["curves"] or {"groups": []}
    curves = [group for group in swept["groups"] if group["group"] not in groups]
    return [(g["group"], g["units"], places.get(g["group"], g["units"])) for g in curves]


def _curve(group: Mapping[str, Any], width: tuple[int, int], planned: bool) -> figure.Curve:
    # The share that was really kept: of 32 channels, 10 % are 3, which is 9.4 %.
    points = [(_share((group["units"], point["kept"])), point) for point in _known(group)]
    line = [_DENSE, *((share, _loss(point)) for share, point in points)]
    runs = groupby(points, key=lambda place: place[1]["low"] is not None)
    bands = [[(share, p["low"], p["high"]) for share, p in run] for measured, run in runs if measured]
    share = _share(width)
    degradation = _interpolate(line, share) if planned else None
    return figure.Curve(
        name=group["group"],
        line=line,
        bands=bands,
        chosen=None if degradation is None else (share, degradation),
    )


def _row(
    index: int,
    group: Mapping[str, Any],
    curve: figure.Curve,
    width: tuple[int, int],
    columns: tuple[Sequence[float], int],
    scale: RootScale,
    total: int,
) -> dict[str, Any]:
    shares, steps = columns
    points = {_column(point, steps): point for point in group["points"]}
    nearest = min(points, key=lambda share: abs(share - _share(width)), default=None)
    picked = nearest if width[1] < width[0] else None
    return {
        "hue": figure.hue(index, total),
        "name": group["group"],
        "units": width[0],
        "kept": width[1],
        "loss": units.loss(curve.chosen[1]) if curve.chosen else units.NONE,
        "cells": [_cell(points.get(share), share == picked, scale) for share in shares],
    }


def _cell(point: Mapping[str, Any] | None, picked: bool, scale: RootScale) -> dict[str, Any]:
    """One cell of the heat map: its classes, the degradation and its interval; a prediction where none was measured."""
    if point is None:
        return {"css": "none", "picked": False, "guess": False, "value": "", "interval": ""}
    degradation, low, high, fitted = point["degradation"], point["low"], point["high"], point["fitted"]
    if degradation is None and fitted is not None:
        css = f"h{scale.level(fitted)}"
        return {"css": css, "picked": picked, "guess": True, "value": units.loss(fitted), "interval": ""}
    return {
        "css": "failed" if degradation is None else f"h{scale.level(_loss(point))}",
        "picked": picked,
        "guess": False,
        "value": "failed" if degradation is None else units.loss(degradation),
        "interval": "" if degradation is None or low is None or high is None else units.spread(degradation, low, high),
    }


def _column(point: Mapping[str, Any], steps: int) -> float:
    return round(float(point["share"]) * steps) / steps


def _share(width: tuple[int, int]) -> float:
    return width[1] / width[0] if width[0] else 1.0


def _known(group: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The points that were measured or predicted, from all channels to few."""
    known = [point for point in group["points"] if _loss(point) is not None]
    return sorted(known, key=lambda point: -float(point["share"]))


def _loss(point: Mapping[str, Any]) -> Any:
    """What the plan reads: the fit, else what was measured; None where the point failed."""
    return point["degradation"] if point["fitted"] is None else point["fitted"]


def _interpolate(line: Sequence[tuple[float, float]], share: float) -> float | None:
    """The curve at a share between its points, or None beyond its last."""
    for (right, at_right), (left, at_left) in pairwise(line):
        if left <= share <= right and left < right:
            return at_left + (at_right - at_left) * (share - left) / (right - left)
    return 0.0 if share == 1 else None
