"""A model as a program: the functional ATen graph of ``torch.export``, run node by node."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from workbench.graph.chance import marked
from workbench.graph.exporting import exported, is_free, refusing
from workbench.graph.functional import functional
from workbench.graph.inputs import Inputs, device_of
from workbench.graph.tensors import own_tensors

Values = MutableMapping[str, Any]  # what each node computed, by the node's name


@dataclass(frozen=True)
class Program:
    """The operations of a model in order, and the tensors it owns.

    ``nodes`` are the operations; ``state`` maps a placeholder's name to the name of the tensor it stands for (as in
    ``state_dict``); ``tensors`` holds those tensors; ``inputs`` name nodes; ``outputs`` are nodes, or constants
    that the model returns as they are.
    """

    nodes: tuple[Node, ...]
    state: Mapping[str, str]
    tensors: Mapping[str, Tensor]
    inputs: tuple[str, ...]
    outputs: tuple[Any, ...]
    in_spec: pytree.TreeSpec
    out_spec: pytree.TreeSpec
    any_batch: bool  # whether it runs at other batch sizes than the one it was exported with
    fixed: tuple[torch.Size | None, ...]  # the inputs' shapes, where it does not
    last_use: Mapping[str, tuple[str, ...]] = field(repr=False)  # node -> the values nobody needs after it
    parameters: tuple[str, ...] = ()  # of the forward, in order, where they have places

    def example(self, inputs: Inputs) -> Inputs:
        """As many of some inputs as it was exported with."""
        sizes = [shape[0] for shape in self.fixed if shape]
        return inputs.take(sizes[0] if sizes else 2)

    def start(self, inputs: Inputs, tensors: Mapping[str, Tensor] | None = None) -> Values:
        """The values of the placeholders. ``tensors`` replaces tensors of the model, by their names."""
        owned = {**self.tensors, **(tensors or {})}
        values: Values = {placeholder: owned[name] for placeholder, name in self.state.items()}
        leaves = pytree.tree_leaves(self._ordered(inputs.to(device_of(owned.values()))))
        self._check_sizes(leaves)
        if len(leaves) != len(self.inputs):
            raise ValueError(
                f"the model was traced with {len(self.inputs)} inputs ({', '.join(self.inputs)}), not with "
                f"{len(leaves)}; give batches of the same inputs, and no labels among them"
            )
        return {**values, **dict(zip(self.inputs, leaves, strict=True))}

    def _ordered(self, inputs: Inputs) -> Any:
        """The arguments as they were when the model was traced: by their names, wherever they have some."""
        args, kwargs = pytree.tree_unflatten(list(range(len(self.inputs))), self.in_spec)
        traced = dict(zip(self.parameters, args, strict=False)) | kwargs
        given = dict(zip(self.parameters, inputs.args, strict=False)) | dict(inputs.kwargs)
        if max(len(args), len(inputs.args)) > len(self.parameters):  # more than have names: by place
            return _like((args, kwargs), (inputs.args, dict(inputs.kwargs)))
        if strange := [name for name in given if name not in traced]:
            raise ValueError(
                f"the model was traced with {len(traced)} inputs ({', '.join(traced)}), not with "
                f"{', '.join(strange)}; give batches of the same inputs, and no labels among them"
            )
        return _like(traced, given)

    def _check_sizes(self, leaves: Sequence[Any]) -> None:
        """Where the export has fixed the batch, say so before some operation does."""
        for name, fixed, leaf in zip(self.inputs, self.fixed, leaves, strict=False):
            if fixed and isinstance(leaf, Tensor) and leaf.shape[:1] != fixed[:1]:
                raise ValueError(
                    f"the forward fixes the batch: {name} has {fixed[0]} samples in every run, not {leaf.shape[0]}; "
                    "let it take the size from x.shape[0], or give example inputs of the batch size of your data"
                )

    def run(self, nodes: Iterable[Node], values: Values, free: bool = False) -> Values:
        """Run some nodes in order on the values so far, which are added to (and dropped after use with ``free``)."""
        for node in nodes:
            values[node.name] = compute(node, values)
            if free:
                self.forget(node, values)
        return values

    def forget(self, node: Node, values: Values) -> None:
        """Drop what nobody needs after a node."""
        for name in self.last_use[node.name]:
            if name in values:
                del values[name]

    def output(self, values: Values) -> Any:
        """What the model returns, in its own structure."""
        leaves = [values[leaf.name] if isinstance(leaf, Node) else leaf for leaf in self.outputs]
        return pytree.tree_unflatten(leaves, self.out_spec)

    def __call__(self, inputs: Inputs, tensors: Mapping[str, Tensor] | None = None) -> Any:
        return self.output(self.run(self.nodes, self.start(inputs, tensors), free=True))


def compute(node: Node, values: Values) -> Any:
    """The value of one node."""
    args, kwargs = map_arg((node.args, node.kwargs), lambda used: values[used.name])
    return node.target(*args, **kwargs)  # type: ignore[operator]  # call_function targets are callables


def export(model: nn.Module, inputs: Inputs) -> Program:
    """The program of a model in eval mode; its batch stays free where the model allows it.

    Raises
    ------
    Refused
        ``torch.export`` cannot follow the forward.
    """
    with marked(model):
        program = exported(model, inputs)
    with refusing(model), torch.no_grad():
        return from_exported(functional(program), model)


def save_program(model: nn.Module, inputs: Inputs, path: Path) -> None:
    """Write the exported model to a file, from which ``load_program`` makes the same program.

    Raises
    ------
    Refused
        ``torch.export`` cannot follow the forward, or cannot write what it found.
    """
    with marked(model):
        program = exported(model, inputs)
    with refusing(model):
        torch.export.save(program, path)


def load_program(path: Path) -> tuple[Program, Inputs, nn.Module]:
    """The program in a file, the inputs that it was exported with, and the model in eval mode, without its class."""
    exported = torch.export.load(path)
    model = exported.module()
    model.train = model.eval = lambda *_: model  # type: ignore[method-assign, assignment]  # its own refuse to be called
    args, kwargs = exported.example_inputs
    with torch.no_grad():
        return from_exported(functional(exported), model), Inputs(args, kwargs), model


def from_exported(program: ExportedProgram, model: nn.Module) -> Program:
    """The program in an exported one; its tensors are the caller's own, not copies."""
    signature = program.graph_signature
    state = {**signature.inputs_to_parameters, **signature.inputs_to_buffers,
             **signature.inputs_to_lifted_tensor_constants}  # fmt: skip
    own = own_tensors(model)
    tensors = {name: own[name] if name in own else program.constants[name] for name in state.values()}
    graph = program.graph_module.graph
    returned = cast(Sequence[Any], graph.output_node().args[0])[-len(signature.user_outputs) :]  # after written buffers
    nodes = _alive(graph, returned)
    any_batch = is_free(program)
    shapes = {node.name: getattr(node.meta.get("val"), "shape", None) for node in graph.find_nodes(op="placeholder")}
    inputs = tuple(map(str, signature.user_inputs))
    return Program(
        nodes=nodes,
        state=state,
        tensors={name: tensor.detach() for name, tensor in tensors.items()},
        inputs=inputs,
        outputs=tuple(returned),
        in_spec=program.call_spec.in_spec,
        out_spec=program.call_spec.out_spec,
        any_batch=any_batch,
        fixed=() if any_batch else tuple(shapes.get(name) for name in inputs),
        last_use=_last_uses(nodes, keep={leaf.name for leaf in returned if isinstance(leaf, Node)}),
        parameters=_places(model),
    )


def _places(model: nn.Module) -> tuple[str, ...]:
    """The names of the forward's arguments that can be given by place."""
    parameters = inspect.signature(model.forward).parameters.values()
    return tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))


def _like(traced: Any, given: Any) -> Any:
    """The same values with all dicts in the order of those that were traced."""
    if isinstance(traced, dict) and isinstance(given, Mapping) and traced.keys() == given.keys():
        return {name: _like(traced[name], given[name]) for name in traced}
    if isinstance(traced, list | tuple) and isinstance(given, list | tuple) and len(traced) == len(given):
        return [_like(*pair) for pair in zip(traced, given, strict=True)]
    return given


def _alive(graph: torch.fx.Graph, returned: Iterable[Any]) -> tuple[Node, ...]:
    """The operations that what is returned depends on; others assert, or compute what nobody reads."""
    needed = {leaf for leaf in returned if isinstance(leaf, Node)}
    for node in reversed(graph.nodes):
        if node in needed:
            needed.update(node.all_input_nodes)
    return tuple(node for node in graph.nodes if node in needed and node.op == "call_function")


def _last_uses(nodes: tuple[Node, ...], keep: set[str]) -> dict[str, tuple[str, ...]]:
    seen = set(keep)
    last: dict[str, tuple[str, ...]] = {}
    for node in reversed(nodes):
        names = [used.name for used in (*node.all_input_nodes, node) if used.op == "call_function"]
        last[node.name] = tuple(dict.fromkeys(name for name in names if name not in seen))
        seen.update(names)
    return last
