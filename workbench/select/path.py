"""What a criterion sees of a group, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.blocks import Blocks
from workbench.calibrate import Evidence, Statistics
from workbench.fisher import FisherFactors
from workbench.graph.call import bind, is_batch_norm
from workbench.graph.groups import ChannelGroup
from workbench.graph.program import Program
from workbench.graph.trace import ChannelGraph, Layer
from workbench.signals import Signals, UnitSignals


@dataclass(frozen=True)
class GroupView:
    """One group with the weights of its members and the evidence of the layers that read it."""

    group: ChannelGroup
    consumers: tuple[Layer, ...]
    tensors: Mapping[str, Tensor]
    evidence: Mapping[str, Evidence]
    signals: Signals = field(default_factory=dict, repr=False)
    fisher: FisherFactors = field(default_factory=dict, repr=False)
    scales: frozenset[str] = frozenset()  # the tensors that a BN multiplies by
    blocks: Mapping[str, Blocks] = field(default_factory=dict, repr=False)  # of the layers that are too wide

    @classmethod
    def of(cls, graph: ChannelGraph, name: str, statistics: Statistics) -> GroupView:
        """The view of the group of that name."""
        consumers = graph.consumers[name]
        evidence = {layer.name: statistics.layers[layer.name] for layer in consumers}
        scales = frozenset(batch_norm_scales(graph.program))
        found = {layer.name: Blocks.of(layer, graph) for layer in consumers}
        blocks = {layer: some for layer, some in found.items() if some is not None}
        return cls(
            graph[name], consumers, graph.program.tensors, evidence, statistics.signals, statistics.fisher, scales,
            blocks,
        )  # fmt: skip

    def makers(self) -> list[tuple[Tensor, tuple[tuple[int, ...], ...]]]:
        """The weights that make the group's channels, float64 ``[channels, ...]``, and each unit's rows in them.

        Biases are left out: they are no measure of what a channel carries.
        """
        members = [m for m in self.group.members if m.role == "out" and self.tensors[m.tensor].ndim > 1]
        return [
            (self.tensors[m.tensor].detach().double().cpu().movedim(m.dim, 0).flatten(1), m.indices) for m in members
        ]

    def batch_norm_scales(self) -> list[tuple[Tensor, tuple[tuple[int, ...], ...]]]:
        """The scales ``[channels]`` of the BNs that the group's channels pass, and each unit's places in them."""
        members = [m for m in self.group.members if m.tensor in self.scales]
        return [(self.tensors[m.tensor].detach().double().cpu(), m.indices) for m in members]

    def read_signals(self) -> list[UnitSignals]:
        """The signals of what each consumer reads.

        Raises
        ------
        ValueError
            They were not gathered.
        """
        found = [self.signals.get((self.group.name, layer.name)) for layer in self.consumers]
        signals = [one for one in found if one is not None]
        if len(signals) < len(found):
            raise ValueError(
                "this criterion needs signals that were not gathered; give calibrate(..., needs=needs_of(criterion))"
            )
        return signals

    def columns(self, layer: Layer) -> list[tuple[int, ...]]:
        """For each unit, the columns of a consumer's evidence that leave with it."""
        return columns_of(self.group, layer, self.blocks.get(layer.name))

    def solution(self, layer: Layer) -> Tensor:
        """What gives a consumer's targets from its columns now, float64 ``[groups, columns, out / groups]``."""
        if layer.name in self.blocks:
            return self.blocks[layer.name].scale.diag()[None]
        weight = layer.turned(self.tensors[layer.weight]).detach().double().cpu().flatten(1)
        return weight.unflatten(0, (layer.groups, -1)).mT

    def may_leave(self, present: Tensor) -> Tensor:
        """Which of the units that are present may leave next, bool ``[units]``: not the last of a set in ``one_of``."""
        free = present.clone()
        for some in self.group.one_of:
            left = [unit for unit in some if present[unit]]
            if len(left) == 1:
                free[left] = False
        return free if present.sum() > 1 else torch.zeros_like(present)


def by_unit(rows: Tensor, units: Sequence[Sequence[int]]) -> Tensor:
    """The weights ``[channels, ...]`` of each unit side by side, filled up with zeros, ``[units, width]``."""
    each = [rows[list(unit)].flatten() for unit in units]
    widest = max(map(len, each))
    return torch.stack([F.pad(one, (0, widest - len(one))) for one in each])


def batch_norm_scales(program: Program) -> list[str]:
    """The tensors that the BNs of a program multiply by."""
    norms = [bind(node, node.args, node.kwargs)["weight"] for node in program.nodes if is_batch_norm(node)]
    return [program.state[weight.name] for weight in norms if weight is not None and weight.name in program.state]


def columns_of(group: ChannelGroup, layer: Layer, blocks: Blocks | None = None) -> list[tuple[int, ...]]:
    """For each unit of a group, the columns of a layer's flattened weight that leave with it, or the blocks."""
    kernel = layer.shape[2:].numel()
    member = next(m for m in group.members if m.tensor == layer.weight and m.role == "in")
    # a transposed convolution's weight numbers its inputs through all groups
    inputs = [dict.fromkeys(index % layer.shape[1] for index in unit) for unit in member.indices]
    columns = [tuple(index * kernel + k for index in unit for k in range(kernel)) for unit in inputs]
    if blocks is None:
        return columns
    owner = {column: number for number, some in enumerate(blocks.columns.tolist()) for column in some}
    return [tuple(dict.fromkeys(owner[column] for column in some)) for some in columns]


@dataclass(frozen=True)
class Path:
    """The order in which units leave, first to last; the last ``least`` cannot.

    ``errors[k]`` is the relative output error once k units are gone, summed over the layers that read the group;
    ``losses[k]`` what that error adds to the loss by its second order, in nats a sample. Either is empty where it is
    not known.
    """

    order: tuple[int, ...]
    errors: tuple[float, ...] = ()
    losses: tuple[float, ...] = ()
    least: int = 1

    def kept(self, count: int) -> tuple[int, ...]:
        """The units that stay when ``count`` are to stay, in order."""
        return tuple(sorted(self.order[len(self.order) - count :]))
