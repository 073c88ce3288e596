"""What was done to each layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from workbench.report import units
from workbench.report.figures import bars, strip


def view(result: Mapping[str, Any]) -> dict[str, Any]:
    """One row a layer; ``index`` links it to the curve of its output channels, None if there is none."""
    swept = result["curves"]["groups"] if result["curves"] else []
    place = {group["group"]: index for index, group in enumerate(swept)}
    strips = {group["group"]: strip.strip(group["units"], group["kept"]) for group in result["groups"]}
    layers = result["layers"]
    totals = tuple(sum(layer["macs"][side] for layer in layers) for side in (0, 1))
    top = max((layer["macs"][0] for layer in layers), default=0)
    timed = result.get("predicted_latency_ms")  # older results have none
    rows = [_layer(layer, place, strips, totals, top, timed) for layer in layers]
    return {"rows": rows, "timed": bool(timed), "refinement": _refinement(result.get("refinement"))}  # nor this


def _refinement(refined: Mapping[str, Any] | None) -> str:
    """What the joint refinement did, as a sentence."""
    if refined is None:
        return ""
    if refined["failed"]:
        return f"All layers together could not be refined: {refined['failed']}."
    before, after = units.percent(refined["before"]), units.percent(refined["after"])
    steps = f"{refined['steps']} steps of joint refinement"
    if not refined["kept"]:
        return (
            f"{steps} were not kept: on held-out samples the error of the model's output went from {before} to "
            f"{after}, and fell for {refined['gained']} of {refined['samples']}."
        )
    return f"{steps} then lowered the error of the model's output on held-out samples from {before} to {after}."


def _layer(
    layer: Mapping[str, Any],
    place: Mapping[str, int],
    strips: Mapping[str, str],
    totals: Sequence[int],
    top: int,
    timed: Sequence[float] | None,
) -> dict[str, Any]:
    macs, error = layer["macs"], layer["error"] or (None, None)
    return {
        "index": place.get(layer["group_out"]),
        "name": layer["layer"],
        "kind": _kind(layer),
        "in": _change(layer["in"], units.count),
        "out": _change(layer["out"], units.count),
        "strip": strips.get(layer["group_out"], ""),
        "bars": bars.pair(macs[0], macs[1], top),
        "macs": _change(macs, units.si),
        "share": _change(_shares(macs, totals), units.percent),
        "params": _change(layer["params"], units.si),
        "share_ms": _change(_shares(layer.get("ms") or (None, None), timed or (None, None)), units.percent),
        "error": _change(error, units.percent),
    }


def _shares(parts: Sequence[float | None], wholes: Sequence[float | None]) -> list[float | None]:
    return [part / whole if part is not None and whole else None for part, whole in zip(parts, wholes, strict=True)]


def _kind(layer: Mapping[str, Any]) -> str:
    """The operation, and what it was factorised into."""
    kind, rank = str(layer["kind"]), layer.get("rank")  # older results have none
    return kind if rank is None else f"{kind}: {rank['method'].replace('_', ' ')}, rank {rank['rank']}"


def _change(pair: Sequence[Any], show: Callable[[Any], str]) -> dict[str, Any]:
    before, after = pair
    return {"before": show(before), "after": show(after), "same": before == after}
