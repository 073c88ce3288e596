"""Which elements of a model's values do not depend on its inputs: a BN with scale 0 makes constant channels.

The program is run on the example inputs; beside every value goes a tensor that is above 0 where the value may differ
on other inputs. An op that sums gives it by being run on it, with weights that are not negative; an op that moves data
by being run on it as it is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from workbench.graph.call import bind, op_name
from workbench.graph.program import Program, Values, compute
from workbench.graph.rules.elementwise import BINARY, UNARY
from workbench.graph.rules.movement import BY_PLACES, MOVES, SPLITS
from workbench.graph.rules.reduction import POOLS

JOINED = (*MOVES, *SPLITS, *BY_PLACES, *POOLS, *"cat concat stack constant_pad_nd pad getitem mean sum".split())
LINEAR = ("linear", *(f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)))
NORMS = "batch_norm _native_batch_norm_legit_no_training layer_norm rms_norm group_norm instance_norm".split()


class Known:
    """The values of a run on example inputs, and where they are constant. Call ``follow`` for each node in order."""

    def __init__(self, program: Program, values: Values):
        self.program, self.values = program, values
        # only what may differ is here: 0 where it does not
        self.moving: Values = {name: _like(values[name], 1.0) for name in program.inputs}

    def follow(self, node: Node) -> None:
        """Compute the next value."""
        self.values[node.name] = compute(node, self.values)
        if any(used.name in self.moving for used in node.all_input_nodes):
            moving = self._moving(node)
            if moving is not None:
                self.moving[node.name] = moving
        self.program.forget(node, self.values)
        self.program.forget(node, self.moving)

    def constant(self, name: str, dim: int) -> Tensor:
        """Which indices of a value along a dimension are the same on all inputs, bool ``[size]``."""
        value = self.values[name]
        if name not in self.moving:
            return torch.ones(value.shape[dim], dtype=torch.bool)
        still: Tensor = self.moving[name].movedim(dim, 0).flatten(1).amax(1) == 0
        return still

    def _moving(self, node: Node) -> Any:
        op, arguments = op_name(node), bind(node, node.args, node.kwargs)
        if op in LINEAR and arguments["weight"].name not in self.moving:
            return self._summed(node)
        if op in NORMS:
            return self._scaled(node, arguments)
        if op in UNARY and len(node.all_input_nodes) == 1:
            own = self.values[node.name]
            moving = self.moving[node.all_input_nodes[0].name]
            return moving.to(own.dtype) if isinstance(own, Tensor) and own.is_floating_point() else _like(own, 1.0)
        if op in BINARY:
            return self._combined(node)
        if op == "scaled_dot_product_attention":
            return self._attended(node, arguments)
        if op in JOINED and not any(used.name in self.moving for used in node.all_input_nodes[1:] if op in BY_PLACES):
            try:
                return self._run(node, self.moving)
            except RuntimeError:  # it wants other numbers than these: then all may differ
                pass
        return _like(self.values[node.name], 1.0)

    def _run(self, node: Node, instead: Values) -> Any:
        """The node on other tensors; floating-point ones that are not given are zero."""

        def value(used: Node) -> Any:
            found = instead.get(used.name, _like(self.values[used.name], 0.0))
            return found.contiguous() if isinstance(found, Tensor) else found  # so that any view of it can be had

        args, kwargs = map_arg((node.args, node.kwargs), value)
        return node.target(*args, **kwargs)  # type: ignore[operator]  # call_function targets are callables

    def _summed(self, node: Node) -> Any:
        weight = bind(node, node.args, node.kwargs)["weight"].name
        return self._run(node, {**self.moving, weight: self.values[weight].abs()})

    def _scaled(self, node: Node, arguments: dict[str, Any]) -> Any:
        """A norm: nothing comes through a scale of 0. Only a BN by stored statistics keeps its channels apart."""
        apart = op_name(node) == NORMS[1] or (op_name(node) == NORMS[0] and not arguments["training"])
        source = arguments["input"].name
        moving = self.moving[source] if apart else _like(self.values[source], 1.0)
        scale = arguments.get("weight")
        if scale is not None:
            own = (self.values[scale.name] != 0).to(moving.dtype)
            channels = op_name(node) not in ("layer_norm", "rms_norm")
            moving = moving * (own.view(-1, *[1] * (moving.ndim - 2)) if channels else own)
        return [moving, *([None] * 2)] if op_name(node) == NORMS[1] else moving

    def _attended(self, node: Node, arguments: dict[str, Any]) -> Any:
        """A weighted mean of the values: a feature that is the same in all tokens comes out as it is."""
        value, own = self.values[arguments["value"].name], self.values[node.name]
        moving = self.moving.get(arguments["value"].name, _like(value, 0.0)).amax(-2, keepdim=True)
        moving = moving + (value.amax(-2, keepdim=True) != value.amin(-2, keepdim=True)).to(moving)
        if arguments["attn_mask"] is not None or arguments["dropout_p"] or moving.ndim != own.ndim:
            return _like(own, 1.0)  # a query whose keys are all masked has no mean
        if moving.shape[:-2] != own.shape[:-2]:  # grouped queries
            moving = moving.repeat_interleave(own.shape[-3] // moving.shape[-3], -3)
        return moving.expand(own.shape)

    def _combined(self, node: Node) -> Any:
        values = {used: self.values[used.name] for used in node.all_input_nodes}
        parts = {used: self.moving.get(used.name, _like(value, 0.0)) for used, value in values.items()}
        if not all(isinstance(part, Tensor) for part in parts.values()):
            return _like(self.values[node.name], 1.0)
        moving = sum(part != 0 for part in parts.values())
        if op_name(node) == "mul":
            for used, part in parts.items():
                moving = moving * ((part != 0) | (values[used] != 0))  # a constant 0 makes all it meets constant
        own: Tensor = self.values[node.name]
        return (moving > 0).to(own.dtype if own.is_floating_point() else torch.float32).expand(own.shape)


def _like(value: Any, fill: float) -> Any:
    """A tensor of its shape, or several. Integers are places, and stay as they are for a fill of 0."""
    if isinstance(value, list | tuple):
        return [_like(item, fill) for item in value]
    if isinstance(value, Tensor) and (value.is_floating_point() or fill):
        return torch.full_like(value, fill, dtype=value.dtype if value.is_floating_point() else torch.float32)
    return value
