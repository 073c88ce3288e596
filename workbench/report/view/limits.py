"""What could not be done, and whether what was done is right."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from workbench.report import units


def view(result: Mapping[str, Any]) -> dict[str, Any]:
    """Frozen dimensions, uncounted operations, approximate norms, failed points, and the verification."""
    verification = result["verification"]
    return {
        "frozen": result["frozen"],
        "not_counted": result["cost"]["not_counted"],
        "approximate": [
            {"group": group["group"], "notes": group["approximate"]}
            for group in result["groups"]
            if group["approximate"]
        ],
        "failed": [
            {"group": group["group"], "share": units.whole_percent(point["share"]), "reason": point["failed"]}
            for group in (result["curves"] or {"groups": []})["groups"]
            for point in group["points"]
            if point["failed"] is not None
        ],
        "verification": {
            "ok": verification["ok"],
            "ranks": bool(result.get("ranks")),  # older results have none
            "worst": units.power(verification["worst"]),
            "layer": verification["layer"],
            "tolerance": units.power(verification["tolerance"]),
            "margin": _margin(verification["worst"], verification["tolerance"]),
            "approximate": verification["approximate"],
            "lost": verification.get("lost", []),  # older results have none
        },
    }


def _margin(worst: float | None, tolerance: float | None) -> str:
    """How far the worst error is from its bound, in words a reader need not compute."""
    if not worst or not tolerance:
        return ""
    factor = tolerance / worst
    side = "below" if factor >= 1 else "above"
    return f"{float(f'{max(factor, 1 / factor):.2g}'):,.{0 if math.fabs(math.log10(factor)) >= 1 else 1}f} times {side}"
