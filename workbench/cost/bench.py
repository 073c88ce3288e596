"""Single operations of a model at any widths, ready to be run: what a table of latencies is measured on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_aggregate
from torch.utils import _pytree as pytree

from workbench.cost.engine import Call
from workbench.cost.work import ValueSizes
from workbench.graph.call import bind, layer_of, op_name
from workbench.graph.constants import CORRECTORS, Site, Size
from workbench.graph.inputs import Inputs
from workbench.graph.masked import survivors
from workbench.graph.program import Values
from workbench.graph.survivors import Kept, Survivors, compact
from workbench.graph.trace import ChannelGraph
from workbench.graph.winnow import record_of

COUPLED = 2  # an operation that depends on more has no table


@dataclass(frozen=True)
class Row:
    """One call of every pass: the layer and operation that it is, and the axes on which its time depends.

    An axis is a channel group, or a layer as a method splits it (``rank_axis``): units, or ranks.
    """

    layer: str
    op: str
    axes: tuple[str, ...]


@dataclass(frozen=True)
class Operation:
    """One operation of the model that is timed, the groups on which it depends, and its layer.

    The layer is that of the graph whose weight it has, else the module that calls it.
    """

    node: Node
    groups: tuple[str, ...]
    layer: str

    @property
    def row(self) -> Row:
        """What it is in every pass."""
        return Row(self.layer, op_name(self.node), self.groups)


@dataclass(frozen=True)
class Bench:
    """A model's values on some inputs, of which operations are given what would stay of some groups."""

    graph: ChannelGraph
    values: Values
    groups: frozenset[str]

    @classmethod
    def of(cls, graph: ChannelGraph, inputs: Inputs, where: torch.device, channels: bool = True) -> Bench:
        """Run the model once on a device, and keep everything; without ``channels`` all groups stay whole."""
        tensors = {name: tensor.to(where) for name, tensor in graph.program.tensors.items()}
        values = graph.program.run(graph.program.nodes, graph.program.start(inputs, tensors))
        return cls(graph, values, frozenset(group.name for group in graph.exact if channels))

    def operations(self) -> tuple[list[Operation], tuple[str, ...]]:
        """What is timed, and the names of those that depend on widths in a way no table holds."""
        found, skipped = [], []
        layers = {layer.node: layer.name for layer in self.graph.layers}
        for node in self.graph.program.nodes:
            groups = self.groups_of(*node.all_input_nodes, node)
            if self._moves_nothing(node):
                continue
            layer = layers.get(node.name) or layer_of(node) or node.name
            operation = Operation(node, groups if len(groups) <= COUPLED else (), layer)
            if groups and not operation.groups:
                skipped.append(operation.layer)
            try:
                self.call(node, {name: max(1, self.graph[name].units // 2) for name in operation.groups})()
                found.append(operation)
            except RuntimeError:  # it holds sizes of its own
                skipped.append(operation.layer)
        return found, tuple(skipped)

    @cached_property
    def _sizes(self) -> ValueSizes:
        return ValueSizes(self.graph, {})

    def groups_of(self, *nodes: Node) -> tuple[str, ...]:
        """The groups that shrink any of some values."""
        shapes = self._sizes.provenance.run.shapes
        found: dict[str, None] = {}
        for node in nodes:
            shape = shapes.get(node.name, ())
            for dim in range(0 if isinstance(shape, list) else len(shape)):
                found |= dict.fromkeys(share.group for share in self._sizes.of(node.name, dim).shares)
        return tuple(name for name in found if name in self.groups)

    def _moves_nothing(self, node: Node) -> bool:
        """Whether a result is a view, a number, the model's own, or what dropout leaves as it was in eval mode."""
        if op_name(node) == "chance":  # a copy in the program alone
            return True
        given = {place for used in node.all_input_nodes for place in _places(self.values[used.name])}
        return _places(self.values[node.name]) <= given

    def call(self, node: Node, widths: Mapping[str, int]) -> Call:
        """An operation where groups keep their first so many units and the others all."""
        stays = self._stays(widths)
        arguments = bind(node, node.args, node.kwargs)
        corrector = CORRECTORS.get(op_name(node)) if stays.lose(node) else None
        arguments |= corrector(Site(node, arguments, stays)) if corrector else {}
        return Call(node.target, (), map_aggregate(arguments, partial(self._filled, stays)))  # type: ignore[arg-type]

    def value(self, node: Node, widths: Mapping[str, int]) -> Tensor:
        """What stays of a value."""
        return _laid_out(self.values[node.name], self._stays(widths).of(node.name))

    def _stays(self, widths: Mapping[str, int]) -> Survivors:
        record = record_of(self.graph, {name: range(kept) for name, kept in widths.items()})
        return survivors(self.graph.provenance, record.cuts)

    def _filled(self, stays: Survivors, leaf: Any) -> Any:
        """An argument: what stays of a value, or a size, at the batch of these inputs."""
        if isinstance(leaf, Size):
            if not isinstance(leaf.given, Node):
                return leaf.now
            return leaf.now * self.values[leaf.given.name] // stays.provenance.run.numbers[leaf.given.name]
        if not isinstance(leaf, Node):
            return leaf
        value = self.values[leaf.name]
        return _laid_out(value, stays.of(leaf.name)) if isinstance(value, Tensor) else value


def _places(values: Any) -> set[int]:
    """Where tensors lie in memory."""
    leaves = pytree.tree_leaves(values)
    return {leaf.untyped_storage().data_ptr() for leaf in leaves if isinstance(leaf, Tensor)}


def _laid_out(value: Tensor, kept: Kept) -> Tensor:
    """What stays of a tensor, with its dimensions in the same order in memory."""
    strides = value.stride()
    order = sorted(range(value.ndim), key=lambda dim: (-strides[dim], dim))
    small = compact(value.detach(), {dim: positions.to(value.device) for dim, positions in kept.items()})
    return small.permute(order).contiguous().permute(sorted(range(value.ndim), key=order.__getitem__))

