"""The rounding of ``_core`` once more in plain Python, to be read and to be compared with."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from workbench.allocate.rounding import Mode, multiples


def round_width(units: int, ratio: Fraction, multiple: int, mode: Mode) -> int:
    """The allowed width next to ``ratio * units``."""
    wanted = ratio * units
    allowed = multiples(units, multiple)
    below = max((width for width in allowed if width <= wanted), default=allowed[0])
    above = min(width for width in allowed if width >= wanted)
    nearest = min(allowed, key=lambda width: (abs(width - wanted), -width))
    return {"down": below, "nearest": nearest, "up": above}[mode]


def round_ranks(
    ranks: Sequence[float], costs: Sequence[int], budget: int, multiple: int, highest: Sequence[int]
) -> list[int]:
    """Round down, lower what is furthest above its rank until the budget holds, then raise what is furthest below."""
    allowed = [multiples(most, multiple) for most in highest]
    places = [
        max((place for place, width in enumerate(widths) if width <= rank), default=0)
        for widths, rank in zip(allowed, ranks, strict=True)
    ]
    layers = range(len(ranks))

    def rank(layer: int) -> int:
        return allowed[layer][places[layer]]

    def total() -> int:
        return sum(costs[layer] * rank(layer) for layer in layers)

    while total() > budget:
        lowerable = [layer for layer in layers if places[layer] > 0 and costs[layer] > 0]
        if not lowerable:
            return []
        places[max(lowerable, key=lambda layer: rank(layer) - ranks[layer])] -= 1
    while True:
        room = budget - total()
        raisable = [
            layer
            for layer in layers
            if places[layer] + 1 < len(allowed[layer])
            and costs[layer] * (allowed[layer][places[layer] + 1] - rank(layer)) <= room
        ]
        if not raisable:
            return [rank(layer) for layer in layers]
        places[max(raisable, key=lambda layer: ranks[layer] - rank(layer))] += 1
