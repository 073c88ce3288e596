"""One operation of a program as a rule sees it: arguments with their shapes and labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from workbench.graph.atoms import Atoms, Reason
from workbench.graph.labels import Labels


@dataclass(frozen=True)
class Operand:
    """A tensor argument: its shape and the labels it carries."""

    shape: torch.Size
    labels: Labels
    name: str = ""

    def only(self, *dims: int) -> Tensor | None:
        """The label that varies along exactly these dimensions."""
        from workbench.graph.labels import varied

        return next((label for label in self.labels if varied(label) == dims), None)


@dataclass(frozen=True)
class Call:
    """A node with its arguments bound to the op's schema; tensors are replaced by operands."""

    node: Node
    arguments: Mapping[str, Any]
    shape: torch.Size  # of the (first) result
    atoms: Atoms
    layer: str

    @property
    def op(self) -> str:
        """The op's name without namespace and overload."""
        return op_name(self.node)

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def get(self, name: str, default: Any = None) -> Any:
        """An argument, or a default where the op's schema has none of that name."""
        return self.arguments.get(name, default)

    def tensors(self) -> list[Operand]:
        """All tensor arguments, those in lists too."""
        found: list[Operand] = []
        for value in self.arguments.values():
            found += [
                item for item in (value if isinstance(value, list | tuple) else [value]) if isinstance(item, Operand)
            ]
        return found

    def freeze(self, what: Operand | Tensor, why: str, remedy: str) -> None:
        """Say that an operand's indices, or one label's, can never leave because of this op."""
        reason = Reason(self.op, self.layer, why, remedy)
        for label in what.labels if isinstance(what, Operand) else (what,):
            self.atoms.freeze(label, reason)


def op_name(node: Node) -> str:
    """``conv2d`` for ``aten.conv2d.default``, ``getitem`` for ``operator.getitem``."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.split("::")[-1]
    return getattr(target, "__name__", str(target))


def bind(node: Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by the names in the op's schema, defaults filled in."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return {str(place): value for place, value in enumerate(args)} | dict(kwargs)
    schema = node.target._schema.arguments
    given = {argument.name: value for argument, value in zip(schema, args, strict=False)} | dict(kwargs)
    return {a.name: given.get(a.name, a.default_value if a.has_default_value() else None) for a in schema}


def layer_of(node: Node) -> str:
    """The module whose forward called the op; empty for the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    return paths[-1].removeprefix("L['self'].") if paths and paths[-1] != "L['self']" else ""
