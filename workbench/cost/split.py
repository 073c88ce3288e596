"""Layers as methods split them: each stage an operation of its own, whose time depends on a width and a rank."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.fx import Node
from torch.nn.modules.conv import _ConvNd

from workbench.cost.bench import COUPLED, Bench, Operation, Row
from workbench.cost.engine import Call
from workbench.cost.layer_latency import rank_axis
from workbench.factorize import Method, Shape, Site, Stage
from workbench.factorize.ladder import largest
from workbench.factorize.layers import options_of
from workbench.graph.call import layer_of, op_name

FILL = 0.01  # of made-up weights: what they make is neither zero nor denormal


@dataclass(frozen=True)
class Split:
    """One layer as one method splits it, on a bench."""

    bench: Bench
    site: Site
    method: Method
    operation: Operation  # that it replaces
    source: Node  # the value that the layer reads

    @property
    def axis(self) -> str:
        """Of its rank."""
        return rank_axis(self.site.layer.name, self.method.name)

    @property
    def most(self) -> int:
        """The largest rank that makes the layer cheaper."""
        return largest(self.site, self.method)

    @property
    def fits(self) -> bool:
        """Whether no stage depends on more axes than a table holds, nor on other groups than the layer does."""
        known = {*self.operation.groups, self.axis}
        return all(len(row.axes) <= COUPLED and known.issuperset(row.axes) for row in self.rows())

    @property
    def pads(self) -> bool:
        """Whether each stage pads what it reads first, as zeros need not."""
        module = self._module
        return isinstance(module, _ConvNd) and module.padding_mode != "zeros"

    def rows(self) -> list[Row]:
        """What its calls are; a width that shrinks what the layer reads and what it gives is on all stages."""
        reads, makes = self.bench.groups_of(self.source), self.bench.groups_of(self.operation.node)
        both = tuple(name for name in reads if name in makes)
        found = []
        for stage in self.method.stages(self.site.shape, 1):
            groups = reads if stage.inputs is None else makes if stage.outputs is None else both
            ops = [*(["pad"] if self.pads else []), op_name(self.operation.node)]
            found += [Row(self.site.layer.name, op, (*groups, self.axis)) for op in ops]
        return found

    def calls(self, widths: Mapping[str, int]) -> list[Call]:
        """The calls at some widths and a rank, each on what the one before makes.

        A stage's time shall depend on its own axes alone: ranks are as wide as given, even where no more than a lower
        one is left of a narrow layer.
        """
        groups = {name: widths[name] for name in self.operation.groups}
        dense = self.bench.call(self.operation.node, groups)
        weight = dense.kwargs["weight"]
        shape = Shape.of(weight, dense.kwargs.get("groups", 1))
        value = self.bench.value(self.source, groups) if self.pads else dense.kwargs["input"]
        found: list[Call] = []
        stages = self.method.stages(self.site.shape, widths[self.axis])
        for number, stage in enumerate(stages, 1):
            outputs, inputs = stage.outputs or shape.outputs, stage.inputs or shape.inputs
            factor = weight.new_full((shape.groups * outputs, inputs, *stage.kernel(shape)), FILL)
            bias = dense.kwargs["bias"] if number == len(stages) else None
            for call in self._stage(stage, dense, value, {"weight": factor, "bias": bias}):
                value = call()
                found.append(call)
        return found

    def _stage(self, stage: Stage, dense: Call, value: Tensor, tensors: Mapping[str, Any]) -> Iterator[Call]:
        module = self._module
        if not isinstance(module, _ConvNd):
            yield Call(dense.function, (), {**dense.kwargs, "input": value, **tensors})
            return
        options = options_of(module, stage)
        if self.pads:
            sides = module._reversed_padding_repeated_twice
            pad = [side if stage.dims[-1 - n // 2] else 0 for n, side in enumerate(sides)]
            padded = Call(F.pad, (value, pad), {"mode": module.padding_mode})
            yield padded
            value, options = padded(), options | {"padding": [0] * len(stage.dims)}
        yield Call(dense.function, (), {**dense.kwargs, **options, "input": value, **tensors})

    @property
    def _module(self) -> Any:
        return self.bench.graph.model.get_submodule(self.site.layer.name)


def splits_of(
    bench: Bench, operations: Sequence[Operation], sites: Sequence[Site]
) -> tuple[list[Split], tuple[str, ...]]:
    """All splits whose stages depend on few enough axes, and the layers of the others."""
    found: list[Split] = []
    skipped = []
    known = {operation.node.name: operation for operation in operations}
    for site in sites:
        operation = known.get(site.layer.node)
        if operation is None:
            continue
        some = [Split(bench, site, method, operation, _source(operation.node)) for method in site.methods]
        some = [split for split in some if split.most]
        if all(split.fits for split in some):
            found += some
        else:
            skipped.append(site.layer.name)
    return found, tuple(skipped)


def _source(node: Node) -> Node:
    """What a layer reads, before its own forward pads it."""
    layer = layer_of(node)
    while layer_of(node) == layer:
        node = node.all_input_nodes[0]
    return node
