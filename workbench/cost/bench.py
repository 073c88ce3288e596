"""Single operations of a model at any widths, ready to be run: what a table of latencies is measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
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

LEVELS = 7  # widths of a group; a prime, see ``Bench.passes``
BLOCK = 16  # channels that kernels handle at once: behind each the time goes up a step
COUPLED = 2  # an operation of more groups has no table


@dataclass(frozen=True)
class Operation:
    """One operation that is timed, and the groups on which it depends."""

    node: Node
    groups: tuple[str, ...]

    @property
    def layer(self) -> str:
        """The module that calls it, for people."""
        return layer_of(self.node) or self.node.name


@dataclass(frozen=True)
class Bench:
    """A model's values on some inputs, of which operations are given what would stay."""

    graph: ChannelGraph
    values: Values

    @classmethod
    def of(cls, graph: ChannelGraph, inputs: Inputs, where: torch.device) -> Bench:
        """Run the model once on a device, and keep everything."""
        tensors = {name: tensor.to(where) for name, tensor in graph.program.tensors.items()}
        return cls(graph, graph.program.run(graph.program.nodes, graph.program.start(inputs, tensors)))

    def operations(self) -> tuple[list[Operation], tuple[str, ...]]:
        """What is timed, and the names of those that depend on widths in a way no table holds."""
        sizes, exact = ValueSizes(self.graph, {}), {group.name for group in self.graph.exact}
        found, skipped = [], []
        for node in self.graph.program.nodes:
            groups = tuple(name for name in _groups(node, sizes) if name in exact)
            if self._moves_nothing(node):
                continue
            operation = Operation(node, groups if len(groups) <= COUPLED else ())
            if groups and not operation.groups:
                skipped.append(operation.layer)
            try:
                self.call(node, {name: max(1, self.graph[name].units // 2) for name in operation.groups})()
                found.append(operation)
            except RuntimeError:  # it holds sizes of its own
                skipped.append(operation.layer)
        return found, tuple(skipped)

    def passes(self, operations: Sequence[Operation]) -> list[dict[str, int]]:
        """Widths of all groups for each pass over the operations: all pairs of levels for an operation of two groups.

        In pass (a, b) a group is at level a + b * c, modulo a prime, where c is another number for groups that meet:
        two such groups are at each pair of levels in just one pass.
        """
        colours = _colours(operations)
        levels = {name: grid(self.graph[name].units) for name in colours}
        return [
            {name: _level(levels[name], (a + b * colour) % LEVELS) for name, colour in colours.items()}
            for a in range(LEVELS) for b in range(LEVELS)
        ]  # fmt: skip

    def _moves_nothing(self, node: Node) -> bool:
        """Whether a result is a view, a number, the model's own, or what dropout leaves as it was in eval mode."""
        if op_name(node) == "chance":  # a copy in the program alone
            return True
        given = {place for used in node.all_input_nodes for place in _places(self.values[used.name])}
        return _places(self.values[node.name]) <= given

    def call(self, node: Node, widths: Mapping[str, int]) -> Call:
        """An operation where groups keep their first so many units and the others all."""
        record = record_of(self.graph, {name: range(kept) for name, kept in widths.items()})
        stays = survivors(self.graph.provenance, record.cuts)
        arguments = bind(node, node.args, node.kwargs)
        corrector = CORRECTORS.get(op_name(node)) if stays.lose(node) else None
        arguments |= corrector(Site(node, arguments, stays)) if corrector else {}
        return Call(node.target, (), map_aggregate(arguments, partial(self._filled, stays)))  # type: ignore[arg-type]

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


def grid(units: int) -> tuple[int, ...]:
    """Widths at which a group is measured, of whole blocks where it has enough; behind two of them, where times jump.

    Examples
    --------
    >>> grid(64), grid(5)
    ((8, 16, 32, 33, 48, 49, 64), (1, 2, 3, 4, 5))
    """
    if units <= LEVELS:
        return tuple(range(1, units + 1))
    block = BLOCK if units >= 4 * BLOCK else 1
    quarter, half, most = (max(1, round(units * part / block) * block) for part in (1 / 4, 1 / 2, 3 / 4))
    return tuple(sorted({max(1, units // 8), quarter, half, half + 1, most, most + 1, units}))


def _level(widths: Sequence[int], number: int) -> int:
    """The width of a level, of which some are the same where there are few widths."""
    return widths[number * len(widths) // LEVELS]


def _colours(operations: Sequence[Operation]) -> dict[str, int]:
    """A number for each group, different for groups that an operation depends on together where there are enough."""
    meets: dict[str, set[str]] = {}
    for operation in operations:
        for name in operation.groups:
            meets.setdefault(name, set()).update(other for other in operation.groups if other != name)
    found: dict[str, int] = {}
    for name, others in meets.items():
        taken = {found[other] for other in others if other in found}
        found[name] = next((colour for colour in range(LEVELS) if colour not in taken), len(found) % LEVELS)
    return found


def _groups(node: Node, sizes: ValueSizes) -> list[str]:
    """The groups that shrink what an operation reads or gives."""
    shapes = sizes.provenance.run.shapes
    found: dict[str, None] = {}
    for one in (*node.all_input_nodes, node):
        shape = shapes.get(one.name, ())
        for dim in range(0 if isinstance(shape, list) else len(shape)):
            found |= dict.fromkeys(share.group for share in sizes.of(one.name, dim).shares)
    return list(found)


def _laid_out(value: Tensor, kept: Kept) -> Tensor:
    """What stays of a tensor, with its dimensions in the same order in memory."""
    strides = value.stride()
    order = sorted(range(value.ndim), key=lambda dim: (-strides[dim], dim))
    small = compact(value.detach(), {dim: positions.to(value.device) for dim, positions in kept.items()})
    return small.permute(order).contiguous().permute(sorted(range(value.ndim), key=order.__getitem__))

