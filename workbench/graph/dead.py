"""Dead units: nothing that depends on the inputs comes of them, so that they can leave without a trace.

A unit is dead where every layer that reads it either has zeros for it, or reads a constant of which the layer's bias
can take up what it adds. A BN behind a filter of zeros gives a constant, and not zero; where zeros are padded around
such a map, what it adds differs at the border, and no bias equals it. But one such unit can stand for all others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from workbench.graph.call import bind
from workbench.graph.fold import ROUNDING
from workbench.graph.groups import ChannelGroup
from workbench.graph.known import Known
from workbench.graph.trace import ChannelGraph, Layer

SOME = 64  # channels at a time


@dataclass(frozen=True)
class Dead:
    """The units that can leave, by group; and of those that nothing makes any more, why some must stay."""

    units: Mapping[str, tuple[int, ...]]
    held: Mapping[str, str]

    def kept(self, graph: ChannelGraph) -> dict[str, tuple[int, ...]]:
        """What stays of the groups that lose some, as ``winnow`` takes it."""
        return {
            name: tuple(unit for unit in range(graph[name].units) if unit not in gone)
            for name, gone in self.units.items() if gone
        }  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """What a layer makes of its channels, bool ``[channels]``: which it ``reads``, which of these are ``constant``, and
    of which its bias cannot take up what they add, so that they are ``left``, for a ``reason``. ``values`` are
    ``[channels, places]``."""

    reads: Tensor
    constant: Tensor
    left: Tensor
    reason: str
    values: Tensor

    @property
    def alive(self) -> Tensor:
        """Which channels matter."""
        return self.reads & (~self.constant | self.left)


@torch.no_grad()
def dead_units(graph: ChannelGraph) -> Dead:
    """Which units of a graph are dead, by the values of its tensors. One unit of each group stays."""
    readings = readings_of(graph)
    units: dict[str, tuple[int, ...]] = {}
    held: dict[str, str] = {}
    for group in graph.groups:
        unmade = _unmade(graph, group)
        if group.approximate:
            if unmade.any():
                held[group.name] = f"{int(unmade.sum())} units: {group.approximate[0]} would mean something else"
            continue
        dead = ~read_units(graph, group, {node: one.alive for node, one in readings.items()})
        units[group.name] = _some_stay(group, dead)
        stuck = unmade & ~dead
        if stuck.any():
            reasons = [
                f"{layer.name} reads constants {readings[layer.node].reason}"
                for layer in graph.consumers[group.name] if readings[layer.node].left.any()
            ]  # fmt: skip
            held[group.name] = f"{int(stuck.sum())} units: {'; '.join(dict.fromkeys(reasons)) or 'they are still read'}"
    return Dead(units, held)


def readings_of(graph: ChannelGraph) -> dict[str, Reading]:
    """For every layer, by its node, what it makes of what it reads."""
    known = Known(graph.program, graph.program.start(graph.sample(2)))
    layers = {layer.node: layer for layer in graph.layers}
    found: dict[str, Reading] = {}
    for node in graph.program.nodes:
        layer = layers.get(node.name)
        if layer is not None:
            source = known.values[layer.source]
            constant = known.constant(layer.source, source.ndim + layer.channel_dim).cpu()
            reads = _reads(graph, layer)
            left, reason = _left(graph, layer, node, known, constant & reads)
            values = source.movedim(layer.channel_dim, 0).flatten(1).cpu()
            found[node.name] = Reading(reads, constant, left, reason, values)
        known.follow(node)
    return found


def _reads(graph: ChannelGraph, layer: Layer) -> Tensor:
    """Which channels a layer has a weight for that is not zero, bool ``[channels]``."""
    weight = layer.turned(graph.program.tensors[layer.weight])
    some = (weight != 0).reshape(layer.groups, -1, layer.shape[1], layer.shape[2:].numel())
    return some.any(3).any(1).flatten().cpu()


def _left(graph: ChannelGraph, layer: Layer, node: Node, known: Known, constant: Tensor) -> tuple[Tensor, str]:
    """Which constant channels add what no bias of the layer can take up, and why."""
    source = known.values[layer.source]
    channels = source.movedim(layer.channel_dim, 0).flatten(1)
    constant = constant & channels.any(1).cpu()  # zeros add nothing
    if not constant.any() or not (layer.bias or layer.mean):
        return constant, "without a bias that could take them up"
    if not graph.runs_once(layer):
        return constant, "with a weight that is used more than once"
    if layer.channel_dim == -1:
        spread = channels.amax(1) - channels.amin(1) > ROUNDING * channels.abs().amax(1)
        return constant & spread.cpu(), "that differ from place to place"
    left = constant.clone()
    places = constant.nonzero().flatten()
    for some in places.split(SOME):
        left[some] = _uneven(layer, node, known, some)
    return left, "that add something else at the border, where zeros are padded"


def _uneven(layer: Layer, node: Node, known: Known, channels: Tensor) -> Tensor:
    """Whether what each of some channels adds to a convolution's output differs from place to place."""
    source = known.values[layer.source]
    alone = source.new_zeros(len(channels), *source.shape[1:])
    alone[torch.arange(len(channels)), channels] = source[0, channels]
    arguments = bind(node, node.args, node.kwargs) | {"bias": None}
    values = map_arg(arguments, lambda used: known.values[used.name])
    found: Tensor = node.target(**{**values, "input": alone}).flatten(2)  # type: ignore[operator]
    spread = (found.amax(2) - found.amin(2)).amax(1)
    return (spread > ROUNDING * found.abs().amax((1, 2))).cpu()


def read_units(graph: ChannelGraph, group: ChannelGroup, alive: Mapping[str, Tensor]) -> Tensor:
    """Which units something reads, bool ``[units]``, where ``alive`` are the channels that matter to layers."""
    layers = graph.consumers[group.name]
    read = torch.zeros(group.units, dtype=torch.bool)
    if not any(member.role == "in" for member in group.members):
        read = ~_unmade(graph, group)
    for member in group.members:
        if member.role != "in":
            continue
        own = [layer for layer in layers if layer.weight == member.tensor]
        for layer in own:
            read |= _by_unit(member.indices, _columns(layer, alive[layer.node]))
        if not own:
            rows = graph.program.tensors[member.tensor].movedim(member.dim, 0)
            read |= _by_unit(member.indices, (rows != 0).reshape(len(rows), -1).any(1).cpu())
    return read


def _columns(layer: Layer, channels: Tensor) -> Tensor:
    """Of channels, for each index of the weight's inputs: a grouped convolution has one for a channel of each block."""
    return channels if layer.transposed else channels.unflatten(0, (layer.groups, -1)).any(0)


def _unmade(graph: ChannelGraph, group: ChannelGroup) -> Tensor:
    """Which units have no weight that makes them, bool ``[units]``."""
    tensors = graph.program.tensors
    makers = [m for m in group.members if m.role == "out" and tensors[m.tensor].ndim > 1]
    made = torch.zeros(group.units, dtype=torch.bool)
    for member in makers:
        rows = tensors[member.tensor].movedim(member.dim, 0).flatten(1)
        made |= _by_unit(member.indices, (rows != 0).any(1).cpu())
    return ~made if makers else torch.zeros_like(made)


def _by_unit(indices: tuple[tuple[int, ...], ...], some: Tensor) -> Tensor:
    return torch.stack([some[list(unit)].any() for unit in indices])


def _some_stay(group: ChannelGroup, dead: Tensor) -> tuple[int, ...]:
    """The dead units, without the last of a set of which one must stay."""
    present = torch.ones_like(dead)
    for unit in dead.nonzero().flatten().tolist():
        rest = present.clone()
        rest[unit] = False
        if rest.any() and all(unit not in some or rest[list(some)].any() for some in group.one_of):
            present = rest
    return tuple((~present).nonzero().flatten().tolist())
