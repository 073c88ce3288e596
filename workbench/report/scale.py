"""The square-root scale of degradations, shared by curves and heat map.

Most of a plan is decided where curves are almost flat, and a few widths lose a hundred times more: a linear axis would
show these only. The square root keeps both readable and, other than a logarithm, has a zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

HEAT_LEVELS = 8
_TICK_DISTANCE = 0.1


@dataclass(frozen=True)
class RootScale:
    """Maps degradations onto 0 (bottom) to 1 (top) by their signed square roots.

    Example:
        >>> RootScale(0.0, 1.0).at(0.25)
        0.5
    """

    low: float
    high: float

    @classmethod
    def over(cls, values: Iterable[float]) -> RootScale:
        """The scale that holds all values and zero."""
        known = [0.0, *values]
        return cls(min(known), max(known) if max(known) > 0 else 1.0)

    def at(self, value: float) -> float:
        """The position of a value, held to 0..1."""
        low, high = _root(self.low), _root(self.high)
        return min(1.0, max(0.0, (_root(value) - low) / (high - low)))

    def ticks(self) -> list[float]:
        """Zero and round values (1, 2, 5 times a power of ten) with room for a label between them."""
        chosen = [0.0]
        for sign, end in ((1, self.high), (-1, -self.low)):
            for value in _round_values(end):
                if all(abs(self.at(sign * value) - self.at(other)) >= _TICK_DISTANCE for other in chosen):
                    chosen.append(sign * value)
        return sorted(chosen)

    def level(self, value: float) -> int:
        """The step of the heat map's colour ramp: 0 for no loss, HEAT_LEVELS for the largest."""
        if value <= 0:
            return 0
        return min(HEAT_LEVELS, 1 + int(HEAT_LEVELS * math.sqrt(value / self.high)))


def _root(value: float) -> float:
    return math.copysign(math.sqrt(abs(value)), value)


def _round_values(end: float) -> list[float]:
    """1, 2, 5 times powers of ten up to ``end``, largest first, over the decades that a root scale can show."""
    if end <= 0:
        return []
    top = math.floor(math.log10(end))
    values = [digit * 10.0**power for power in range(top, top - 3, -1) for digit in (5, 2, 1)]
    return [value for value in values if value <= end]
