"""What all figures share: the element, numbers and text in it."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

Point = tuple[float, float]


def stretched(body: str, css: str, width: int, height: int) -> str:
    """An SVG whose drawing stretches to its box. It says nothing to screen readers: its numbers stand beside it."""
    return f'<svg class={css} viewBox="0 0 {width} {height}" preserveAspectRatio=none>{body}</svg>'


def relative(body: str, css: str) -> str:
    """An SVG in pixels and percent: text and strokes keep their size."""
    return f"<svg class={css} aria-hidden=true>{body}</svg>"


def rect(width: float) -> str:
    """A bar from the left, its width in percent."""
    return f"<rect width={number(width)}% />"


def text(content: str, x: float, y: float, limit: int = 40) -> str:
    """A text at a position in percent; one longer than ``limit`` loses its start, as layer names differ in the end."""
    shown = content if len(content) <= limit else "…" + content[1 - limit :]
    return f"<text x={number(x)}% y={number(y)}%>{escape(shown)}</text>"


def line(points: Iterable[Point]) -> str:
    """Path data through whole-numbered points, relative because that is half the bytes."""
    (x, y), *rest = ((round(x), round(y)) for x, y in points)
    data = f"M{x} {y}l" if rest else f"M{x} {y}"
    for next_x, next_y in rest:
        for step in (next_x - x, next_y - y):
            data += f" {step}" if step >= 0 and data[-1] != "l" else f"{step}"
        x, y = next_x, next_y
    return data


def dot(point: Point) -> str:
    """Path data of a line without length: with round caps it is a dot that stays round in a stretched figure."""
    return f"M{round(point[0])} {round(point[1])}h0"


def number(value: float) -> str:
    """A coordinate with at most one decimal."""
    short = f"{value:.1f}".removesuffix(".0")
    return "0" if short == "-0" else short
