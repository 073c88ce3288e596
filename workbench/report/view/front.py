"""What else was possible: the plans of the Pareto front."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workbench.report import units
from workbench.report.figures import front as figure
from workbench.report.view import words
from workbench.report.view.sensitivity import widths


def view(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """The front's figure and rows, or None where the result has no front."""
    plans = result.get("front")
    if not plans:
        return None
    options = {name: option for name, (_, option) in widths(result).items()}
    chosen = next((index for index, plan in enumerate(plans) if plan["options"] == options), None)
    return {
        "figure": figure.plot([(plan["cost_ratio"], plan["predicted_degradation"]) for plan in plans], chosen),
        "chosen": chosen,
        "last": len(plans) - 1,
        "rows": [
            {
                "budget": words.budget(plan["budget"]),
                "cost": units.percent(plan["cost_ratio"]),
                "degradation": units.score(plan["predicted_degradation"]),
            }
            for plan in plans
        ],
    }
