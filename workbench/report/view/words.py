"""The words for costs, budgets and samples, which several sections use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workbench.report import units

# cost key -> (name, name within a sentence, unit)
_COSTS = {
    "macs": ("MACs", "MACs", ""),
    "params": ("Parameters", "parameters", ""),
    "activation_bytes": ("Activation memory", "activation memory", "B"),
    "size_bytes": ("Parameters and buffers", "parameters and buffers", "B"),
    "latency_ms": ("Latency", "latency", "ms"),
    "predicted_latency_ms": ("Predicted latency", "predicted latency", "ms"),
}


def samples(count: int) -> str:
    """How many were scored; a score of one may be of any number, which the evaluation keeps to itself."""
    return "one number for all samples" if count == 1 else units.things(count, "sample")


def cost_name(key: str) -> str:
    """A cost's name as a heading; an unknown key is its own name."""
    return _words(key)[0]


def cost_noun(key: str) -> str:
    """A cost's name within a sentence."""
    return _words(key)[1]


def cost_value(key: str, value: float | None) -> str:
    """A cost with its unit."""
    if _words(key)[2] == "ms":
        return units.seconds(None if value is None else value / 1000)
    return units.si(value, _words(key)[2])


def budget(limits: Mapping[str, Any]) -> str:
    """A budget in words.

    Example:
        >>> budget({"macs": 0.5, "multiple": 8}).replace("\\u00a0", " ")
        'at most 50 % of the MACs, widths in multiples of 8'
    """
    parts = [_limit(key, limit) for key, limit in limits.items() if key != "multiple" and limit is not None]
    multiple = limits.get("multiple") or 1
    if isinstance(multiple, Mapping):
        parts.append("widths in multiples of " + ", ".join(f"{value} ({name})" for name, value in multiple.items()))
    elif multiple > 1:
        parts.append(f"widths in multiples of {multiple}")
    return ", ".join(parts)


def _limit(key: str, limit: float) -> str:
    if limit <= 1:  # larger limits are absolute
        return f"at most {units.whole_percent(limit)} of the {cost_noun(key)}"
    return f"at most {cost_value(key, limit)} of {cost_noun(key)}"


def _words(key: str) -> tuple[str, str, str]:
    return _COSTS.get(key, (key, key, ""))
