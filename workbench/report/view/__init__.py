"""From the result to what the templates print: strings, SVG, and row numbers that link tables to figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workbench.report.view import front, layers, limits, outcome, sensitivity, source


def view(result: Mapping[str, Any]) -> dict[str, Any]:
    """All that the templates print, one entry a section; ``sensitivity`` and ``front`` are None where there is none.

    Args:
        result: the JSON-able dict that ``Result.to_dict()`` returns.

    Raises:
        KeyError: if a key is missing.
    """
    return {
        "outcome": outcome.view(result),
        "sensitivity": sensitivity.view(result),
        "front": front.view(result),
        "layers": layers.view(result),
        "limits": limits.view(result),
        "source": source.view(result),
        "run": source.run(result),
    }
