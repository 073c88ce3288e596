"""What the figures in notebooks and papers share: axes, colours that everybody can tell apart, names as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Lightness alone tells these apart, so that neither colour vision nor a colour printer is needed.
DEPTH, HEAT = "viridis", "YlOrBr"
BEFORE, AFTER = "0.8", "#0f62a8"
DASHES = ("-", "--", "-.", ":")  # neighbours in depth, whose shades are near each other, differ in these
_LIGHTEST = 0.88  # of DEPTH: the yellow end is lost on white paper
_ROW = 0.22  # inches
_LONGEST = 40


def axes(ax: Axes | None, width: float, height: float) -> Axes:
    """The caller's axes, or new ones of so many inches."""
    import matplotlib.pyplot as plt

    return ax or plt.subplots(figsize=(width, height), layout="constrained")[1]


def tall(rows: int) -> float:
    """The inches in which so many rows with names can be read."""
    return max(2.0, 1.0 + _ROW * rows)


def shades(count: int) -> list[tuple[float, ...]]:
    """One colour for each of so many groups, ever lighter from the input to the output."""
    import matplotlib as mpl

    return [tuple(shade) for shade in mpl.colormaps[DEPTH](np.linspace(0, _LIGHTEST, count))]


def shown(name: str) -> str:
    """A name as a label: one that is too long loses its start, as layers differ in the end."""
    short = name if len(name) <= _LONGEST else "…" + name[1 - _LONGEST :]
    return f" {short}" if short.startswith("_") else short  # matplotlib hides labels that begin with an underscore


def name_rows(ax: Axes, names: Sequence[str]) -> None:
    """One row a name, the first on top; a dollar sign in a name begins no formula."""
    ax.set_yticks(range(len(names)), [shown(name) for name in names], parse_math=False, fontsize="small")
    ax.set_ylim(len(names) - 0.5, -0.5)


def before_and_after(ax: Axes, names: Sequence[str], before: Sequence[float], after: Sequence[float]) -> None:
    """Two bars a name, one in the other."""
    rows = range(len(names))
    ax.barh(rows, before, height=0.8, color=BEFORE, label="before")
    ax.barh(rows, after, height=0.45, color=AFTER, label="after")
    name_rows(ax, names)
    ax.legend(fontsize="small", loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)  # on no bar
