"""The sensitivity curves in one plot, each a group of paths that the page can light up or hide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workbench.report.figures import plane
from workbench.report.figures.svg import Point, dot, line, relative, text
from workbench.report.scale import RootScale
from workbench.report.units import whole_percent

HUES = 8
_FEW = 24
_LABELS = 8
_HALF_BAR = 0.004  # of the axis
_LABEL_DISTANCE = 5.5  # percent of the height, which is one line of text


@dataclass(frozen=True)
class Curve:
    """One group's curve over kept shares that fall from 1.

    Attributes:
        name: the channel group.
        line: (share, degradation) as the plan reads it.
        bands: (share, low, high), the 95 % intervals, together where neighbours were measured.
        chosen: (share, degradation) of the plan, or None where the curve does not reach.
    """

    name: str
    line: Sequence[Point]
    bands: Sequence[Sequence[tuple[float, float, float]]]
    chosen: Point | None


def plot(curves: Sequence[Curve], lowest: float, scale: RootScale) -> str:
    """The plot with its axes; the curves that end highest carry their names."""
    body = "".join(_curve(index, curve, len(curves), lowest, scale) for index, curve in enumerate(curves))
    shares = [share / 10 for share in range(10, 0, -2) if share / 10 >= lowest]
    below = "".join(text(whole_percent(share), 100 * _across(share, lowest), 50) for share in shares)
    many = " many" if len(curves) > _FEW else ""
    return (
        f'<div class="plot{many}">{plane.labels(scale)}{plane.area(plane.grid(scale) + body)}'
        f"{relative(_names(curves, scale), 'ends')}{relative(below, 'x')}</div>"
    )


def hue(index: int, total: int) -> int:
    """The colour class of a curve: its depth in the network, in HUES steps."""
    return index * HUES // total


def _curve(index: int, curve: Curve, total: int, lowest: float, scale: RootScale) -> str:
    def at(share: float, degradation: float) -> Point:
        return plane.point(_across(share, lowest), scale.at(degradation))

    parts = ""
    for band in curve.bands:
        if len(band) == 1:  # a point alone has a bar
            ((share, low, high),) = band
            band = [(share + _HALF_BAR, low, high), (share - _HALF_BAR, low, high)]
        outline = [at(share, high) for share, _, high in band]
        outline += [at(share, low) for share, low, _ in reversed(band)]
        parts += f'<path class=band d="{line(outline)}z"/>'
    parts += f'<path d="{line(at(*point) for point in curve.line)}"/>'
    if curve.chosen:
        parts += f'<path class=pick d="{dot(at(*curve.chosen))}"/>'
    return f"<g class=c{hue(index, total)}>{parts}</g>"


def _names(curves: Sequence[Curve], scale: RootScale) -> str:
    """The names of the curves that end highest, pushed apart so that no two overlap."""
    ends = sorted((100 * (1 - scale.at(curve.line[-1][1])), index) for index, curve in enumerate(curves))
    body, free = "", 0.0
    for y, index in ends[:_LABELS]:
        y = max(y, free)
        free = y + _LABEL_DISTANCE
        body += f"<g class=c{hue(index, len(curves))} data-g={index}>{text(curves[index].name, 0, y, limit=18)}</g>"
    return body


def _across(share: float, lowest: float) -> float:
    """A kept share's place from left (all) to right (the lowest), 0 to 1."""
    return (1 - share) / (1 - lowest) if lowest < 1 else 0.0
