"""Follows indices through a program: which can leave, which only together, which never and why.

Every index of every tensor the model owns or makes is an atom. Ops that move data are run on the labels; ops that mix
have a rule that unites atoms. See ``atoms`` and ``labels`` for the two data structures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from workbench.graph.atoms import Atoms, Reason
from workbench.graph.call import Call, Operand, bind, layer_of
from workbench.graph.inputs import Inputs
from workbench.graph.labels import NOTHING, along, core, squash, varied
from workbench.graph.program import Program, Values, compute
from workbench.graph.rules import rule_for

HOLES = Reason(
    "layout", "", "it shares slices of a tensor with what cannot leave", "keep the layer that makes it at full width"
)


@dataclass(frozen=True)
class Provenance:
    """The result of following: atoms of every owned tensor, and the labels of every value."""

    atoms: Atoms
    owned: dict[str, tuple[Tensor, ...]]  # tensor name -> the atoms of each dimension
    labels: dict[str, Any]  # node name -> Labels, or a list of Labels where the op returns several tensors
    run: Run


@dataclass(frozen=True)
class Run:
    """What is known of a program's values on the example inputs."""

    shapes: dict[str, Any]  # node name -> shape, or a list of shapes
    numbers: dict[str, Any]  # node name -> its value: numbers, and integer tensors that do not depend on the inputs
    owned: set[str]  # nodes that do not depend on the inputs


@torch.no_grad()
def follow(program: Program, inputs: Inputs, head_dim: bool = False) -> Provenance:
    """Run the rules of a program until they unite nothing new."""
    run = watch(program, inputs)
    atoms = Atoms(head_dim)
    owned = _atoms_of_tensors(program, atoms)
    made: dict[str, tuple[Tensor, ...]] = {}  # atoms of tensors that the program makes from nothing
    while True:
        labels = _pass(program, run, atoms, owned, made)
        atoms.place = ("layout", "")
        if not atoms.settle() and not _rectangular(atoms, labels):
            return Provenance(atoms, owned, labels, run)
        atoms.settle()


def watch(program: Program, inputs: Inputs) -> Run:
    """What is known of every value without running the model: shapes, numbers, and places that the model owns."""
    run = Run({}, {}, set(program.state))
    start = program.start(inputs)
    for name, value in start.items():
        _note(run, name, value)
    owned = {name: value for name, value in start.items() if name in program.state}
    nodes = {node.name: node for node in program.nodes}
    for node in program.nodes:
        _note(run, node.name, pytree.tree_map(_at_example, node.meta["val"]))
        used = [other.name for other in node.all_input_nodes]
        if all(name in run.owned for name in used):
            run.owned.add(node.name)
            if _is_places(node.meta["val"]):
                run.numbers[node.name] = _owned_value(node, nodes, owned)
    return run


def _at_example(value: Any) -> Any:
    """A traced size or tensor at the batch of the example."""
    if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
        return value.node.hint
    if isinstance(value, Tensor):
        return torch.empty([_at_example(size) for size in value.shape], dtype=value.dtype, device="meta")
    return value


def _is_places(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.is_floating_point() and not value.is_complex()


def _owned_value(node: Node, nodes: Mapping[str, Node], known: Values) -> Any:
    """The value of a node that depends on the model's own tensors alone; what it needs is computed and kept."""
    waiting = [node]
    while waiting:
        last = waiting[-1]
        missing = [nodes[used.name] for used in last.all_input_nodes if used.name not in known]
        if missing:
            waiting += missing
        else:
            known[last.name] = compute(last, known)
            waiting.pop()
    return known[node.name]


def _note(run: Run, name: str, value: Any) -> None:
    if isinstance(value, list | tuple):
        run.shapes[name] = [item.shape if isinstance(item, Tensor) else None for item in value]
    elif isinstance(value, Tensor):
        run.shapes[name] = value.shape
        if not value.is_meta and _is_places(value):
            run.numbers[name] = value
    else:
        run.numbers[name] = value


def _atoms_of_tensors(program: Program, atoms: Atoms) -> dict[str, tuple[Tensor, ...]]:
    """Atoms for every dimension; two names of one storage share them (tied weights)."""
    owned: dict[str, tuple[Tensor, ...]] = {}
    seen: dict[tuple[int, int, torch.Size], str] = {}
    for name, tensor in program.tensors.items():
        key = (tensor.untyped_storage().data_ptr(), int(tensor.storage_offset()), tensor.shape)
        twin = seen.setdefault(key, name) if tensor.numel() else name
        owned[name] = owned[twin] if twin in owned else tuple(atoms.create(size) for size in tensor.shape)
    return owned


def _pass(
    program: Program, run: Run, atoms: Atoms, owned: dict[str, tuple[Tensor, ...]], made: dict[str, tuple[Tensor, ...]]
) -> dict[str, Any]:
    """One pass of all rules; the labels of every value."""

    def source(parts: tuple[Tensor, ...], shape: torch.Size) -> tuple[Tensor, ...]:
        named = [squash(along(atoms.now(part), shape, dim)) for dim, part in enumerate(parts) if len(part) > 1]
        return tuple(label for label in named if label is not None)

    labels: dict[str, Any] = {
        placeholder: source(owned[name], run.shapes[placeholder]) for placeholder, name in program.state.items()
    }
    for node in program.nodes:
        call = _call(node, run, labels, atoms)
        if not node.all_input_nodes or call.makes:
            if node.name not in made:
                made[node.name] = tuple(atoms.create(size) for size in free_sizes(node))
            labels[node.name] = source(made[node.name], call.shape)
        else:
            atoms.place = (call.op, call.layer)
            labels[node.name] = rule_for(call)(call)
    for node in program.outputs:
        reason = Reason("output", "", "the model returns it", "what a model returns keeps its shape")
        for label in _each(labels.get(node.name, ())) if isinstance(node, Node) else ():
            atoms.freeze(label, reason)
    return labels


def free_sizes(node: Node) -> list[int]:
    """The sizes of what a node makes; 0 where it depends on the batch."""
    value = node.meta["val"]
    return [size if isinstance(size, int) else 0 for size in value.shape] if isinstance(value, Tensor) else []


def _call(node: Node, run: Run, labels: dict[str, Any], atoms: Atoms) -> Call:
    def operand(used: Node) -> Any:
        shape, carried = run.shapes.get(used.name), labels.get(used.name, ())
        if isinstance(shape, list):
            each = carried or ((),) * len(shape)
            return [
                s if s is None else Operand(s, part, used.name in run.owned)
                for s, part in zip(shape, each, strict=True)
            ]
        value = run.numbers.get(used.name)
        return value if shape is None else Operand(shape, carried, used.name in run.owned, value, used.name)

    args, kwargs = map_arg((node.args, node.kwargs), operand)
    shape = run.shapes.get(node.name, torch.Size())
    first = next((s for s in shape if s is not None), torch.Size()) if isinstance(shape, list) else shape
    return Call(node, bind(node, tuple(args), kwargs), first, shape, atoms, layer_of(node))


def _rectangular(atoms: Atoms, labels: dict[str, Any]) -> bool:
    """Unite indices of values whose slices could not leave whole; True where there were any.

    A tensor stays rectangular only if what leaves are whole slices of one dimension. Where a label still varies along
    several (a channel shuffle: block and place in it), the longest one keeps its indices apart. Slices that hold what
    has no index, too, cannot leave.
    """
    found = False
    for value in labels.values():
        for label in _each(value):
            place = varied(label)
            if len(place) > 1:
                found = True
                keep = max(place, key=lambda dim: (label.shape[dim], dim))
                thin = core(label)
                slices = thin.movedim(keep, 0).flatten(1)
                mixed = (slices == NOTHING).any(1) & (slices != NOTHING).any(1)
                if mixed.any():
                    atoms.nail(slices[mixed], HOLES)
                for dim in place:
                    if dim != keep:
                        atoms.unite(thin, thin.narrow(dim, 0, 1))
    return found


def _each(value: Any) -> list[Tensor]:
    """All labels of a value, of all its tensors."""
    return [label for part in value for label in ([part] if isinstance(part, Tensor) else part)]
