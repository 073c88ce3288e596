"""What was left of each layer, for results of one model side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workbench.report.figures import bars


def view(results: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One table for each model of which there are several results.

    Args:
        results: the dicts that ``Result.to_dict()`` returns.
        rows: the texts of each, as ``runs.view`` has them.
    """
    models: dict[str, list[int]] = {}
    for place, result in enumerate(results):
        models.setdefault(result["model"]["fingerprint"], []).append(place)
    return [
        {
            "name": results[places[0]]["model"]["name"],
            "fingerprint": fingerprint,
            "runs": [rows[place] for place in places],
            "layers": _layers([results[place] for place in places]),
        }
        for fingerprint, places in models.items()
        if len(places) > 1
    ]


def _layers(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    tables = [{layer["layer"]: layer for layer in result["layers"]} for result in results]
    return [
        {"name": name, "units": layer["out"][0], "cells": [_cell(table.get(name)) for table in tables]}
        for name, layer in tables[0].items()
    ]


def _cell(layer: Mapping[str, Any] | None) -> dict[str, str]:
    if layer is None:  # another version saw other layers in the same tensors
        return {"kept": "", "rank": "", "bar": ""}
    before, after = layer["out"]
    rank = layer.get("rank")  # older results have none
    told = f"{rank['method'].replace('_', ' ')}, rank {rank['rank']}" if rank else ""
    return {"kept": str(after), "rank": told, "bar": bars.single(after, before)}
