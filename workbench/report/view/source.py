"""How to get it again: what decides the result, and the run that made it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workbench.report import units
from workbench.report.figures import bars
from workbench.report.view import words


def view(result: Mapping[str, Any]) -> dict[str, Any]:
    """Method, seed, data, versions and fingerprints."""
    source = result["source"]
    return {
        "method": source["method"],
        "seed": source["seed"],
        "calibration": source["calibration"],
        "search": words.samples(result["curves"]["samples"]) if result["curves"] else "none",
        "evaluation": words.samples(result["score"]["samples"]),
        "versions": source["versions"],
        "fingerprints": source["fingerprints"],
        "workbench": result["workbench"],
        "format": result["format"],
    }


def run(result: Mapping[str, Any]) -> dict[str, Any]:
    """The part that differs from run to run: when, where, how long."""
    run, seconds = result["run"], result["run"]["seconds"]
    top = max(seconds.values(), default=0.0)
    return {
        "when": run["when"],
        "machine": run["machine"],
        "command": run["command"],
        "latency": _latency(run.get("latency")),
        "total": units.seconds(sum(seconds.values())),
        "stages": [
            {"name": name, "seconds": units.seconds(taken), "figure": bars.single(taken, top)}
            for name, taken in seconds.items()
        ],
    }


def _latency(latency: Mapping[str, Any] | None) -> str:
    """What a forward pass takes, and what was predicted, as a sentence; nothing where no milliseconds were budgeted."""
    if latency is None:
        return ""
    (before, _), (after, within), place = _time(latency["before"]), _time(latency["after"]), latency["place"]
    return (
        f"Latency: {before} before, {after} after (95 % interval {within}), "
        f"{units.seconds(latency['predicted'] / 1000)} predicted; batch {place['batch']}, "
        f"{units.things(place['threads'], 'thread')}, {place['engine']}, {place['device']}"
    )


def _time(timing: Mapping[str, float]) -> tuple[str, str]:
    median, low, high = (units.seconds(timing[key] / 1000) for key in ("median", "low", "high"))
    return median, f"{low} to {high}"
