"""What a criterion sees of a group, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.calibrate import Evidence, Statistics
from workbench.graph.groups import ChannelGroup
from workbench.graph.trace import ChannelGraph, Layer


@dataclass(frozen=True)
class GroupView:
    """One group with the weights of its members and the evidence of the layers that read it."""

    group: ChannelGroup
    consumers: tuple[Layer, ...]
    tensors: Mapping[str, Tensor]
    evidence: Mapping[str, Evidence]

    @classmethod
    def of(cls, graph: ChannelGraph, name: str, statistics: Statistics) -> GroupView:
        """The view of the group of that name."""
        consumers = graph.consumers[name]
        evidence = {layer.name: statistics.layers[layer.name] for layer in consumers}
        return cls(graph[name], consumers, graph.program.tensors, evidence)

    def columns(self, layer: Layer) -> list[tuple[int, ...]]:
        """For each unit, the columns of a consumer's flattened weight that leave with it."""
        return columns_of(self.group, layer)

    def may_leave(self, present: Tensor) -> Tensor:
        """Which of the units that are present may leave next, bool ``[units]``: not the last of a set in ``one_of``."""
        free = present.clone()
        for some in self.group.one_of:
            left = [unit for unit in some if present[unit]]
            if len(left) == 1:
                free[left] = False
        return free if present.sum() > 1 else torch.zeros_like(present)


def columns_of(group: ChannelGroup, layer: Layer) -> list[tuple[int, ...]]:
    """For each unit of a group, the columns of a layer's weight ``[out, columns]`` that leave with it."""
    kernel = layer.shape[2:].numel()
    member = next(m for m in group.members if m.tensor == layer.weight and m.role == "in")
    return [tuple(i * kernel + k for i in unit for k in range(kernel)) for unit in member.indices]


@dataclass(frozen=True)
class Path:
    """The order in which units leave, first to last; the last ``least`` cannot.

    ``errors[k]`` is the relative output error once k units are gone, summed over the layers that read the group; empty
    where the criterion does not know.
    """

    order: tuple[int, ...]
    errors: tuple[float, ...] = ()
    least: int = 1

    def kept(self, count: int) -> tuple[int, ...]:
        """The units that stay when ``count`` are to stay, in order."""
        return tuple(sorted(self.order[len(self.order) - count :]))
