"""The legend of the heat map. The map itself is a table, whose cells hold their numbers and a colour level."""

from __future__ import annotations

from workbench.report.scale import HEAT_LEVELS


def ramp() -> str:
    """The colours from no loss to the largest."""
    step = 100 / (HEAT_LEVELS + 1)
    cells = "".join(
        f"<rect class=h{level} x={level * step:.1f}% width={step + 0.2:.1f}% />" for level in range(HEAT_LEVELS + 1)
    )
    return f"<svg class=ramp>{cells}</svg>"
