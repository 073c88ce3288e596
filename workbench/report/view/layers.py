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
    rows = [_layer(layer, place, strips, totals, top) for layer in layers]
    return {"rows": rows, "refinement": _refinement(result.get("refinement"))}  # older results have none


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
) -> dict[str, Any]:
    macs, error = layer["macs"], layer["error"] or (None, None)
    shares = [part / total if total else None for part, total in zip(macs, totals, strict=True)]
    return {
        "index": place.get(layer["group_out"]),
        "name": layer["layer"],
        "kind": _kind(layer),
        "in": _change(layer["in"], units.count),
        "out": _change(layer["out"], units.count),
        "strip": strips.get(layer["group_out"], ""),
        "bars": bars.pair(macs[0], macs[1], top),
        "macs": _change(macs, units.si),
        "share": _change(shares, units.percent),
        "params": _change(layer["params"], units.si),
        "error": _change(error, units.percent),
    }


def _kind(layer: Mapping[str, Any]) -> str:
    """The operation, and what it was factorised into."""
    kind, rank = str(layer["kind"]), layer.get("rank")  # older results have none
    return kind if rank is None else f"{kind}: {rank['method'].replace('_', ' ')}, rank {rank['rank']}"


def _change(pair: Sequence[Any], show: Callable[[Any], str]) -> dict[str, Any]:
    before, after = pair
    return {"before": show(before), "after": show(after), "same": before == after}
