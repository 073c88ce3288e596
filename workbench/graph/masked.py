"""The original with removed units zeroed: what a smaller model has to compute."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_aggregate

from workbench.graph.call import bind, op_name
from workbench.graph.constants import CORRECTORS, Site, Size
from workbench.graph.inputs import Inputs
from workbench.graph.program import Program, Values
from workbench.graph.provenance import Provenance
from workbench.graph.survivors import Kept, Survivors, compact

if TYPE_CHECKING:
    from workbench.graph.record import Cut


def survivors(provenance: Provenance, cuts: Sequence[Cut]) -> Survivors:
    """What stays of every value of a program after some cuts."""
    atoms = provenance.atoms
    first = torch.from_numpy(atoms.representatives)
    gone = torch.zeros(atoms.count, dtype=torch.bool)
    for cut in cuts:
        if cut.gather:  # what it does not read is still there
            continue
        gone[first[provenance.owned[cut.tensor][cut.dim].long()[list(cut.removed)]]] = True
    return Survivors(provenance, gone[first])


def masked(tensors: Mapping[str, Tensor], cuts: Sequence[Cut]) -> dict[str, Tensor]:
    """The tensors of a program, zero where a layer would read a removed channel."""
    changed = dict(tensors)
    for cut in cuts:
        if cut.role == "in":
            tensor = changed[cut.tensor].detach()
            changed[cut.tensor] = tensor.index_fill(cut.dim, torch.tensor(cut.removed, device=tensor.device), 0)
    return changed


@torch.no_grad()
def run_masked(
    program: Program, stays: Survivors, inputs: Inputs, tensors: Mapping[str, Tensor], watch: Collection[str] = (),
) -> tuple[Any, Values]:  # fmt: skip
    """What the program returns with masked tensors, and the values of the watched nodes.

    Where two activations are multiplied and summed over channels that leave, no tensor of the model can be zero in
    their stead: one of the activations is.
    """
    values = program.start(inputs, tensors)
    seen: Values = {}
    for node in program.nodes:
        values[node.name] = compute_masked(node, values, stays)
        if node.name in watch:
            seen[node.name] = values[node.name]
        program.forget(node, values)
    return program.output(values), seen


def compute_masked(node: Node, values: Values, stays: Survivors) -> Any:
    """The value of one node, from the values of a run with masked tensors."""
    atoms = stays.provenance.atoms
    given = {used.name: values[used.name] for used in node.all_input_nodes}
    for name, dim in atoms.products.get(node.name, ()):
        given[name] = _zeroed(given[name], stays.of(name).get(dim), dim)
    if node.name in atoms.altered and stays.lose(node):
        return _altered(node, given, stays)
    args, kwargs = _filled((node.args, node.kwargs), given)
    return node.target(*args, **kwargs)  # type: ignore[operator]  # call_function targets are callables


def altered_nodes(program: Program, stays: Survivors) -> set[str]:
    """The nodes that compute something else once indices leave, though none of the model's tensors changes."""
    atoms = stays.provenance.atoms
    suspects = atoms.altered | set(atoms.products)
    return {node.name for node in program.nodes if node.name in suspects and stays.lose(node)}


def _altered(node: Node, given: Values, stays: Survivors) -> Any:
    """An op that means something else once indices leave: it is run on what stays, and zeros stand for the rest."""
    arguments = bind(node, node.args, node.kwargs)
    corrector = CORRECTORS.get(op_name(node))
    arguments |= corrector(Site(node, arguments, stays)) if corrector else {}
    small = {
        name: compact(value, stays.of(name)) if isinstance(value, Tensor) else value for name, value in given.items()
    }
    result = node.target(**_filled(arguments, small))  # type: ignore[operator]
    if not isinstance(result, list | tuple):
        return _spread(result, stays.of(node.name), stays.provenance.run.shapes[node.name])
    shapes = stays.provenance.run.shapes[node.name]
    return [_spread(*each) for each in zip(result, stays.each(node.name), shapes, strict=True)]


def _spread(value: Tensor, kept: Kept, shape: Sequence[int]) -> Tensor:
    for dim, positions in kept.items():
        wide = value.new_zeros([shape[d] if d == dim else size for d, size in enumerate(value.shape)])
        value = wide.index_copy(dim, positions.to(value.device), value)
    return value


def _filled(arguments: Any, given: Values) -> Any:
    """Arguments with values in the place of nodes."""

    def fill(leaf: Any) -> Any:
        if isinstance(leaf, Node):
            return given[leaf.name]
        return leaf.now if isinstance(leaf, Size) else leaf

    return map_aggregate(arguments, fill)


def _zeroed(value: Tensor, stay: Tensor | None, dim: int) -> Tensor:
    if stay is None:
        return value
    gone = torch.ones(value.shape[dim], dtype=torch.bool, device=value.device)
    gone[stay.to(value.device)] = False
    return value.index_fill(dim, gone.nonzero().flatten(), 0)
