"""The strip of kept channels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

_CELLS = 128


def strip(units: int, kept: Sequence[int]) -> str:
    """A mark where a unit is kept and a gap where it left, as one dashed line.

    Above 128 units, where marks would be thinner than a pixel, neighbours share a cell that is filled from the left to
    their kept share.

    Example:
        >>> 'stroke-dasharray="1 2 1 0"' in strip(4, [0, 3])
        True
    """
    if units == 0:
        return ""
    cells = min(units, _CELLS)
    sizes, held = [0] * cells, [0] * cells
    for unit in range(units):
        sizes[unit * cells // units] += 1
    for unit in kept:
        held[unit * cells // units] += 1
    pieces = [(full, length) for part, size in zip(held, sizes, strict=True) for full, length in _cell(part, size)]
    runs = [(full, sum(length for _, length in run)) for full, run in groupby(pieces, key=lambda piece: piece[0])]
    lengths = [length for _, length in runs]
    if not runs[0][0]:
        lengths.insert(0, 0)  # a dash array begins with a mark
    if len(lengths) % 2:
        lengths.append(0)  # and an odd one would be repeated with marks and gaps exchanged
    dashes = " ".join(map(str, lengths))
    return f'<svg class=strip><line x2=100% pathLength={units} stroke-dasharray="{dashes}"/></svg>'


def _cell(part: int, size: int) -> list[tuple[bool, int]]:
    return [piece for piece in ((True, part), (False, size - part)) if piece[1]]
