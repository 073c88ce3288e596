"""Which widths and ranks are measured, and together with which: few passes over all operations, in which pairs meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from workbench.cost.bench import Row

LEVELS = 7  # of a group or a rank; a prime, see ``passes``
BLOCK = 16  # channels that kernels handle at once: behind each the time goes up a step


def passes(rows: Sequence[Row], grids: Mapping[str, Sequence[int]]) -> list[dict[str, int]]:
    """Units or ranks of all axes for each pass over the calls: all pairs of levels for a call that depends on two axes.

    In pass (a, b) an axis is at level a + b * c, modulo a prime, where c is another number for axes that meet: two such
    axes are at each pair of levels in just one pass.
    """
    colours = _colours(rows)
    return [
        {name: level(grids[name], (a + b * colour) % LEVELS) for name, colour in colours.items()}
        for a in range(LEVELS) for b in range(LEVELS)
    ]  # fmt: skip


def grid(units: int) -> tuple[int, ...]:
    """Widths at which a group is measured, of whole blocks where it has enough; behind two of them, where times jump.

    Examples
    --------
    >>> grid(64), grid(5)
    ((8, 16, 32, 33, 48, 49, 64), (1, 2, 3, 4, 5))
    """
    if units <= LEVELS:
        return tuple(range(1, units + 1))
    quarter, half, most = (_rounded(units * part, units) for part in (1 / 4, 1 / 2, 3 / 4))
    return tuple(sorted({max(1, units // 8), quarter, half, half + 1, most, most + 1, units}))


def rank_grid(most: int) -> tuple[int, ...]:
    """Ranks at which the stages of a layer are measured, from 1 on: low ones are chosen far more often than low widths.

    Examples
    --------
    >>> rank_grid(90), rank_grid(5)
    ((1, 11, 16, 32, 48, 64, 90), (1, 2, 3, 4, 5))
    """
    if most <= LEVELS:
        return tuple(range(1, most + 1))
    parts = (_rounded(most * part, most) for part in (1 / 4, 3 / 8, 1 / 2, 3 / 4))
    return tuple(sorted({1, max(1, most // 8), *parts, most}))


def level(known: Sequence[int], number: int) -> int:
    """The width or rank of a level, of which some are the same where there are few."""
    return known[number * len(known) // LEVELS]


def _rounded(wanted: float, units: int) -> int:
    block = BLOCK if units >= 4 * BLOCK else 1
    return max(1, round(wanted / block) * block)


def _colours(rows: Sequence[Row]) -> dict[str, int]:
    """A number for each axis, different for axes that a call depends on together where there are enough."""
    meets: dict[str, set[str]] = {}
    for row in rows:
        for name in row.axes:
            meets.setdefault(name, set()).update(other for other in row.axes if other != name)
    found: dict[str, int] = {}
    for name, others in meets.items():
        taken = {found[other] for other in others if other in found}
        found[name] = next((colour for colour in range(LEVELS) if colour not in taken), len(found) % LEVELS)
    return found
