"""Accuracy against cost: a numbered dot with an interval for each result, and a grey one for each original."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from workbench.report.figures import plane
from workbench.report.figures.svg import Point, dot, line, relative, text
from workbench.report.units import tick

_FEW = 40  # dots; more have no room for numbers
_TICKS = 6
_MARGIN = 0.06  # of the height


@dataclass(frozen=True)
class Dot:
    """One result.

    Attributes:
        index: its row in the table.
        series: its model and method, by a number; results of one series are joined by a line.
        hue: the colour class of the series.
        cost: from the left.
        score: from below.
        interval: of the score, or None.
    """

    index: int
    series: int
    hue: int
    cost: float
    score: float
    interval: tuple[float, float] | None


def plot(dots: Sequence[Dot], originals: Sequence[Point], show: Callable[[float], str]) -> str:
    """The plot with its axes; results of one series are joined by a line.

    Args:
        dots: at least one.
        originals: cost and score of each.
        show: a cost as a text.
    """
    right = max(cost for cost, _ in [*originals, *((one.cost, 0.0) for one in dots)]) or 1.0
    scores = [one.score for one in dots] + [score for _, score in originals]
    ends = [end for one in dots for end in one.interval or ()]
    bottom, top = _padded(min(scores + ends), max(scores + ends))

    def at(cost: float, score: float) -> Point:
        return plane.point(cost / right, (score - bottom) / (top - bottom))

    ticks = [(value, 1 - (value - bottom) / (top - bottom)) for value in round_values(bottom, top)]
    body = "".join(f'<path class=grid d="M0 {round(plane.SIZE * y)}h{plane.SIZE}"/>' for _, y in ticks)
    body += "".join(f'<path class=was d="{dot(at(*original))}"/>' for original in originals)
    body += _lines(dots, at) + "".join(_dot(one, at) for one in dots)
    y = relative("".join(text(tick(value), 100, 100 * y) for value, y in ticks), "y")
    x = relative("".join(text(show(v), 100 * v / right, 50) for v in round_values(0, right)), "x")
    return f'<div class="plot scatter">{y}{plane.area(body)}{_numbers(dots, at)}{x}</div>'


def round_values(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten between two values, at most six of them.

    Example:
        >>> round_values(0.0, 1.0)
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    raw = (high - low) / (_TICKS - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(step * place, 12) for place in range(first, last + 1)]


def _padded(low: float, high: float) -> tuple[float, float]:
    margin = _MARGIN * (high - low) or abs(high) or 1.0
    return low - margin, high + margin


def _dot(one: Dot, at: Callable[[float, float], Point]) -> str:
    marks = ""
    if one.interval:
        marks = f'<path class=span d="{line([at(one.cost, end) for end in one.interval])}"/>'
    return f'<g class=c{one.hue} data-g={one.index}>{marks}<path class=pick d="{dot(at(one.cost, one.score))}"/></g>'


def _lines(dots: Sequence[Dot], at: Callable[[float, float], Point]) -> str:
    """Through the results of each series, from cheap to dear."""
    body = ""
    for series, hue in sorted({(one.series, one.hue) for one in dots}):
        places = sorted((one.cost, one.score) for one in dots if one.series == series)
        if len(places) > 1:
            body += f'<g class=c{hue}><path class=join d="{line(at(*place) for place in places)}"/></g>'
    return body


def _numbers(dots: Sequence[Dot], at: Callable[[float, float], Point]) -> str:
    """Beside each dot the number of its row, where there are few."""
    if len(dots) > _FEW:
        return ""
    body = ""
    for one in dots:
        x, y = at(one.cost, one.score)
        mark = text(str(one.index + 1), 100 * x / plane.SIZE, 100 * y / plane.SIZE)
        body += f"<g class=c{one.hue} data-g={one.index}>{mark}</g>"
    return relative(body, "numbers")
