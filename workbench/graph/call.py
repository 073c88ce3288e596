"""One operation of a program as a rule sees it: arguments with their shapes and labels."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from workbench.graph.atoms import Atoms, Reason
from workbench.graph.labels import Labels, core, varied

LIKE = frozenset("empty_like full_like ones_like rand_like randn_like zeros_like".split())
MAKERS = LIKE | frozenset(
    """arange empty eye full linspace ones rand randn scalar_tensor tril_indices zeros new_empty
new_full new_ones new_zeros""".split()
)


@dataclass(frozen=True)
class Operand:
    """A tensor argument: its shape and the labels it carries.

    ``owned`` says that it comes from the model's own tensors alone, not from its inputs; ``value`` is the tensor itself
    where it holds integers or truth values, which may be places to index.
    """

    shape: torch.Size
    labels: Labels
    owned: bool = False
    value: Tensor | None = None
    name: str = ""  # of the node

    def only(self, *dims: int) -> Tensor | None:
        """The label that varies along exactly these dimensions."""
        return next((label for label in self.labels if varied(label) == dims), None)


@dataclass(frozen=True)
class Call:
    """A node with its arguments bound to the op's schema; tensors are replaced by operands."""

    node: Node
    arguments: Mapping[str, Any]
    shape: torch.Size  # of the (first) result
    shapes: Any  # of the result, a list where there are several
    atoms: Atoms
    layer: str

    @property
    def op(self) -> str:
        """The op's name without namespace and overload."""
        return op_name(self.node)

    @property
    def makes(self) -> bool:
        """Whether the op makes a tensor from sizes and numbers alone; an input may only lend type and shape."""
        return self.op in MAKERS

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

    def operands(self) -> dict[str, Operand]:
        """The tensor arguments that are not in lists, by name."""
        return {name: value for name, value in self.arguments.items() if isinstance(value, Operand)}

    def apart(self, label: Tensor, dims: Collection[int]) -> Tensor | None:
        """A label that no longer varies along some dimensions, or None where it varies along nothing else.

        Whoever reduces or mixes over a dimension needs whole slices of it: indices that differ only there leave
        together.
        """
        crossing = [dim for dim in varied(label) if dim in dims]
        if len(crossing) == len(varied(label)):
            return None if crossing else label
        for dim in crossing:
            thin = core(label)
            self.atoms.unite(thin, thin.narrow(dim, 0, 1))
            label = label.narrow(dim, 0, 1).expand_as(label)
        return label

    def describe(self) -> str:
        """The op and its layer, for people."""
        return f"{self.op} in {self.layer}" if self.layer else self.op

    def approximates(self, label: Tensor) -> None:
        """Say that the op means something else once indices that a label names leave."""
        self.atoms.approximates(label, self.node.name, self.describe())

    def fresh(self, key: int, size: int) -> Tensor:
        """Atoms of the op's own, the same in every pass."""
        made = self.atoms.fresh.setdefault((self.node.name, key), None)
        if made is None:
            made = self.atoms.fresh[self.node.name, key] = self.atoms.create(size)
        return self.atoms.now(made)

    def freeze(self, what: Operand | Tensor, why: str, remedy: str) -> None:
        """Say that an operand's indices, or one label's, can never leave because of this op."""
        reason = Reason(self.op, self.layer, why, remedy)
        for label in what.labels if isinstance(what, Operand) else (what,):
            self.atoms.freeze(label, reason)


def op_name(node: Node | Callable[..., Any]) -> str:
    """``conv2d`` for ``aten.conv2d.default`` or a node that calls it, ``getitem`` for ``operator.getitem``."""
    target = node.target if isinstance(node, Node) else node
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.split("::")[-1]
    return getattr(target, "__name__", str(target))


def is_batch_norm(node: Node) -> bool:
    """Whether a node normalises by stored statistics, in either form that an export gives it."""
    if op_name(node) == "batch_norm":
        return not bind(node, node.args, node.kwargs)["training"]
    return op_name(node) == "_native_batch_norm_legit_no_training"


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
