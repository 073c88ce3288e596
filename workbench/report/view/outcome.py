"""Did it work: score and cost, before and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workbench.report import units
from workbench.report.figures import bars
from workbench.report.view import words

LATENCY = "predicted_latency_ms"


def view(result: Mapping[str, Any]) -> dict[str, Any]:
    """The headline, the score's card and one card a cost."""
    model, costs = result["model"], _costs(result)
    most = max(1.0, *(ratio for *_, ratio in costs.values() if ratio is not None))  # more activations, say
    return {
        "name": model["name"],
        "class": model["class"] if model["class"] != model["name"] else "",
        "budget": words.budget(result["budget"]),
        "met": result["target_met"],
        "headline": _headline(result, costs),
        "score": _score(result["score"]),
        "expected": _expected(result),
        "costs": [_cost(key, *cost, most) for key, cost in costs.items()],
    }


def _costs(result: Mapping[str, Any]) -> dict[str, tuple[float, float, float | None]]:
    """Each cost before and after, and the share that is left."""
    counted, timed = result["cost"], result.get(LATENCY)  # older results have none
    costs = {key: (counted["before"][key], counted["after"][key], ratio) for key, ratio in counted["ratio"].items()}
    return {LATENCY: (*timed, timed[1] / timed[0])} | costs if timed else costs


def _headline(result: Mapping[str, Any], costs: Mapping[str, tuple[float, float, float | None]]) -> dict[str, str]:
    score = result["score"]
    limited = [key for key in costs if key.removeprefix("predicted_") in result["budget"]] or list(costs)
    *_, kept = costs[limited[0]]
    return {
        "cost": words.cost_noun(limited[0]),
        "kept": units.percent(kept),
        "score": score["name"],
        "before": units.score(score["before"]),
        "after": units.score(score["after"]),
    }


def _score(score: Mapping[str, Any]) -> dict[str, Any]:
    difference, interval = score["difference"], score["interval"]
    return {
        "name": score["name"],
        "before": units.score(score["before"]),
        "after": units.score(score["after"]),
        "difference": units.signed(difference),
        "figure": "" if difference is None else bars.difference(difference, interval),
        "interval": interval and f"{units.signed(interval[0])} to {units.signed(interval[1])}",
        "meaning": _meaning(interval),
        "samples": units.things(score["samples"], "sample") if score["samples"] != 1 else "",
    }


def _expected(result: Mapping[str, Any]) -> str:
    """What the curves predicted, and what came of it, by the search's own score."""
    searched = result.get("searched")
    if searched is None:
        return ""
    predicted, lost, interval = result["predicted_degradation"], -searched["difference"], searched["interval"]
    within = f" (95 % interval {units.score(-interval[1])} to {units.score(-interval[0])})" if interval else ""
    return (
        f"The curves predicted a loss of {units.score(predicted)} in {searched['name']}; it is "
        f"{units.score(lost)}{within}."
    )


def _meaning(interval: tuple[float, float] | None) -> str:
    if interval is None:
        return "No interval: the evaluation gives one number, not one a sample."
    low, high = interval
    if high < 0:
        return "The loss is larger than chance explains."
    if low > 0:
        return "The gain is larger than chance explains."
    return "The interval holds zero: the difference may be chance."


def _cost(key: str, before: float, after: float, ratio: float | None, most: float) -> dict[str, Any]:
    return {
        "name": words.cost_name(key),
        "before": words.cost_value(key, before),
        "after": words.cost_value(key, after),
        "kept": units.percent(ratio),
        "figure": bars.pair(before, after, most * (before or 0)),
    }
