"""Channel selection: in which order the units of a group leave. One criterion a file.

A criterion is a frozen object called with a ``GroupView``; it returns a ``Path``, the order for all widths at once.
"""

from __future__ import annotations

from collections.abc import Callable

from workbench.select.elimination import Elimination
from workbench.select.magnitude import L2
from workbench.select.path import GroupView, Path

Criterion = Callable[[GroupView], Path]

__all__ = ["L2", "Criterion", "Elimination", "GroupView", "Path"]
