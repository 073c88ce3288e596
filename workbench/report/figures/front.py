"""The Pareto front: what a plan of each cost is predicted to lose."""

from __future__ import annotations

from collections.abc import Sequence

from workbench.report.figures import plane
from workbench.report.figures.svg import Point, dot, line, relative, text
from workbench.report.scale import RootScale
from workbench.report.units import whole_percent


def plot(plans: Sequence[Point], chosen: int | None) -> str:
    """The front as dots on a line, one marked.

    Args:
        plans: (cost ratio, predicted degradation) of each plan.
        chosen: the plan that was applied, or None if it is not on the front.
    """
    scale = RootScale.over(degradation for _, degradation in plans)
    places = [plane.point(cost, scale.at(degradation)) for cost, degradation in plans]
    body = f'{plane.grid(scale)}<path d="{line(sorted(places))}"/>'
    for index, place in enumerate(places):
        body += f'<path class="plan{" pick" if index == chosen else ""}" d="{dot(place)}"/>'
    below = "".join(text(whole_percent(share / 5), 20 * share, 50) for share in range(6))
    return f'<div class="plot front">{plane.labels(scale)}{plane.area(body)}{relative(below, "x")}</div>'
