"""One constant unit stands for all others of its group: what these add is added by its weights.

Where zeros are padded around a constant map no bias can take up what it adds; another constant map, times the ratio of
the two, adds just the same, borders included. So ``n`` such units become one, exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.graph.dead import Reading, read_units, readings_of
from workbench.graph.groups import ChannelGroup
from workbench.graph.trace import ChannelGraph, Layer

ROUNDING = 1e-6  # relative, within which two constant maps are proportional


@torch.no_grad()
def merged_weights(graph: ChannelGraph) -> dict[str, Tensor]:
    """The weights of layers, by name, with which the model computes the same and fewer constant units are read."""
    readings = readings_of(graph)
    changed: dict[str, Tensor] = {}
    for group in graph.exact:
        moving = read_units(graph, group, {node: ~one.constant for node, one in readings.items()})
        stuck = read_units(graph, group, {node: one.left for node, one in readings.items()}) & ~moving
        sides = [_Side.of(graph, group, layer, readings[layer.node]) for layer in graph.consumers[group.name]]
        some = [side for side in sides if side is not None]
        if int(stuck.sum()) > 1 and len(some) == len(sides):
            _merge_(some, stuck.nonzero().flatten().tolist(), graph, changed)
    return changed


@dataclass(frozen=True)
class _Side:
    """A layer that reads the units: the columns of its weight for each, and what it reads there."""

    layer: Layer
    columns: tuple[tuple[int, ...], ...]
    values: Tensor  # [channels, places]

    @classmethod
    def of(cls, graph: ChannelGraph, group: ChannelGroup, layer: Layer, reading: Reading) -> _Side | None:
        """None where a weight has another use, or its columns are not its channels."""
        indices = next(m.indices for m in group.members if m.tensor == layer.weight and m.role == "in")
        plain = layer.groups == 1 and not layer.transposed and graph.runs_once(layer)
        if not plain or len({len(unit) for unit in indices}) != 1:
            return None
        return cls(layer, indices, reading.values)

    def map(self, unit: int) -> Tensor:
        """What it reads of a unit, flat."""
        return self.values[list(self.columns[unit])].flatten()


def _merge_(sides: list[_Side], units: list[int], graph: ChannelGraph, changed: dict[str, Tensor]) -> None:
    """Move what some constant units add to the one that is largest, wherever it is smallest."""
    sizes = torch.stack([torch.stack([side.map(unit).abs().max() for unit in units]) for side in sides])
    relative = sizes / sizes.amax(1, keepdim=True).clamp_min(torch.finfo(sizes.dtype).tiny)
    relative[sizes.amax(1) == 0] = 1  # a layer that reads zeros of all of them
    chosen = units[int(relative.amin(0).argmax())]
    for unit in units:
        found = [_ratio(side.map(unit), side.map(chosen)) for side in sides]
        ratios = [ratio for ratio in found if ratio is not None]
        if unit == chosen or len(ratios) < len(sides):
            continue
        for side, ratio in zip(sides, ratios, strict=True):
            name = side.layer.weight
            weight = side.layer.turned(changed.get(name, graph.program.tensors[name])).clone()
            here, there = list(side.columns[unit]), list(side.columns[chosen])
            weight[:, there] += ratio * weight[:, here]
            weight[:, here] = 0
            changed[name] = side.layer.turned(weight)


def _ratio(one: Tensor, other: Tensor) -> float | None:
    """What the other is to be multiplied with to give the one; None where there is no such number."""
    square = other.dot(other)
    if square == 0:
        return None if one.any() else 0.0
    ratio = one.dot(other) / square
    apart = (one - ratio * other).abs().max()
    return ratio.item() if apart <= ROUNDING * one.abs().max() else None
