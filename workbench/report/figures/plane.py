"""The plane that curves and front are drawn in: from the left 0 to 1, from below a root scale of degradations."""

from __future__ import annotations

from workbench.report.figures.svg import Point, relative, stretched, text
from workbench.report.scale import RootScale
from workbench.report.units import tick

# About the pixels of a plot, so that whole numbers are fine enough.
SIZE = 500


def point(across: float, up: float) -> Point:
    """Coordinates of a point given from 0 to 1."""
    return SIZE * across, SIZE * (1 - up)


def area(body: str) -> str:
    """The SVG around what is drawn."""
    return stretched(body, "area", SIZE, SIZE)


def grid(scale: RootScale) -> str:
    """A horizontal line at each tick, the one at zero stronger."""
    rows = [(value, round(point(0, scale.at(value))[1])) for value in scale.ticks()]
    return "".join(f'<path class={"zero" if value == 0 else "grid"} d="M0 {y}h{SIZE}"/>' for value, y in rows)


def labels(scale: RootScale) -> str:
    """The values of the ticks."""
    ticks = [(tick(value), 100 * (1 - scale.at(value))) for value in scale.ticks()]
    return relative("".join(text(shown, 100, y) for shown, y in ticks), "y")
