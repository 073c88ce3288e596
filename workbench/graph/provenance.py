"""Follows indices through a program: which can leave, which only together, which never and why.

Every index of every tensor the model owns is an atom. Ops that move data are run on the labels; ops that mix have a
rule that unites atoms. See ``atoms`` and ``labels`` for the two data structures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from workbench.graph.atoms import Atoms, Reason
from workbench.graph.call import Call, Operand, bind, layer_of
from workbench.graph.inputs import Inputs
from workbench.graph.labels import Labels, along
from workbench.graph.program import Program, Values, compute
from workbench.graph.rules import rule_for


@dataclass(frozen=True)
class Provenance:
    """The result of following: atoms of every owned tensor, and the labels of every value."""

    atoms: Atoms
    owned: dict[str, tuple[Tensor, ...]]  # tensor name -> the atoms of each dimension
    labels: dict[str, Any]  # node name -> Labels
    shapes: dict[str, torch.Size]  # node name -> shape of the example run


@torch.no_grad()
def follow(program: Program, inputs: Inputs) -> Provenance:
    """Run the program once on the example inputs, and its rules beside it."""
    atoms = Atoms()
    owned = _atoms_of_tensors(program, atoms)
    values = program.start(inputs)
    shapes = {name: value.shape for name, value in values.items() if isinstance(value, Tensor)}
    labels: dict[str, Any] = {
        placeholder: tuple(
            along(part, shapes[placeholder], dim) for dim, part in enumerate(owned[name]) if len(part) > 1
        )
        for placeholder, name in program.state.items()
    }
    for node in program.nodes:
        value = values[node.name] = compute(node, values)
        call = _call(node, values, labels, atoms)
        labels[node.name] = rule_for(call)(call)
        shapes |= {node.name: value.shape} if isinstance(value, Tensor) else {}
        for name in program.last_use[node.name]:
            values.pop(name, None)
    for node in program.outputs:
        reason = Reason("output", "", "the model returns it", "what a model returns keeps its shape")
        for label in labels.get(node.name, ()) if isinstance(node, Node) else ():
            atoms.freeze(label, reason)
    return Provenance(atoms, owned, labels, shapes)


def _atoms_of_tensors(program: Program, atoms: Atoms) -> dict[str, tuple[Tensor, ...]]:
    """Atoms for every dimension; two names of one storage share them (tied weights)."""
    owned: dict[str, tuple[Tensor, ...]] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, tensor in program.tensors.items():
        key = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape)
        twin = seen.setdefault(key, name) if tensor.numel() else name
        owned[name] = owned[twin] if twin in owned else tuple(atoms.create(size) for size in tensor.shape)
    return owned


def _call(node: Node, values: Values, labels: dict[str, Any], atoms: Atoms) -> Call:
    def operand(used: Node) -> Any:
        value, carried = values[used.name], labels.get(used.name, ())
        if isinstance(value, Tensor):
            return Operand(value.shape, carried, used.name)
        if isinstance(value, list | tuple):
            each = carried or ((),) * len(value)
            return [Operand(v.shape, part) if isinstance(v, Tensor) else v for v, part in zip(value, each, strict=True)]
        return value

    args, kwargs = map_arg((node.args, node.kwargs), operand)
    value = values[node.name]
    first = value[0] if isinstance(value, list | tuple) and value else value
    shape = first.shape if isinstance(first, Tensor) else torch.Size()
    return Call(node, bind(node, tuple(args), kwargs), shape, atoms, layer_of(node))


def named(labels: Labels) -> np.ndarray:
    """All atoms that some labels name."""
    if not labels:
        return np.empty(0, np.int64)
    found = np.unique(np.concatenate([label.long().numpy().reshape(-1) for label in labels]))
    return found[found >= 0]
