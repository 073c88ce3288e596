"""Bars before and after, and the interval of a difference."""

from __future__ import annotations

from workbench.report.figures.svg import number, rect, relative, stretched, text
from workbench.report.units import signed


def pair(before: float | None, after: float | None, top: float) -> str:
    """Two bars, before above after, as shares of ``top``; an empty string where either is not known.

    Example:
        >>> pair(1.0, 0.5, top=1.0)
        '<svg class=pair><rect width=100% /><rect width=50% /></svg>'
    """
    if before is None or after is None or top <= 0:
        return ""
    return f"<svg class=pair>{rect(100 * before / top)}{rect(100 * after / top)}</svg>"


def single(value: float, top: float) -> str:
    """One bar as a share of ``top``."""
    return f"<svg class=bar>{rect(100 * value / top if top > 0 else 0)}</svg>"


def difference(value: float, interval: tuple[float, float] | None) -> str:
    """A dot, its interval and where zero lies, on one axis that reaches a little beyond all three."""
    low, high = interval or (value, value)
    left, right = min(low, 0.0), max(high, 0.0)
    margin = 0.1 * (right - left) or 1.0
    left, right = left - margin, right + margin

    def at(position: float) -> float:
        return 100 * (position - left) / (right - left)

    marks = f'<path class=axis d="M0 10h100"/><path class=zero d="M{number(at(0))} 2v16"/>'
    if interval is not None:
        marks += f'<path class=span d="M{number(at(low))} 10H{number(at(high))}"/>'
    marks += f'<path class=dot d="M{number(at(value))} 10h0"/>'
    labels = text("0", at(0), 60)
    if abs(at(value) - at(0)) > 20:  # else the two labels would touch
        labels += text(signed(value), at(value), 60)
    return f"<div class=difference>{stretched(marks, 'marks', 100, 20)}{relative(labels, 'labels')}</div>"
