"""A model as a program: the functional ATen graph of ``torch.export``, run node by node."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from workbench import errors
from workbench.errors import Refused
from workbench.graph.chance import marked
from workbench.graph.functional import functional
from workbench.graph.inputs import Inputs, device_of
from workbench.graph.modes import evaluating

Values = dict[str, Any]  # what each node computed, by the node's name


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
    last_use: Mapping[str, tuple[str, ...]] = field(repr=False)  # node -> the values nobody needs after it

    def start(self, inputs: Inputs, tensors: Mapping[str, Tensor] | None = None) -> Values:
        """The values of the placeholders. ``tensors`` replaces tensors of the model, by their names."""
        owned = {**self.tensors, **(tensors or {})}
        values: Values = {placeholder: owned[name] for placeholder, name in self.state.items()}
        inputs = inputs.to(device_of(owned.values()))
        kwargs = dict(inputs.kwargs)
        order = pytree.tree_unflatten(list(range(len(self.inputs))), self.in_spec)[1]
        if order.keys() == kwargs.keys():  # keyword inputs have names, not places
            kwargs = {name: kwargs[name] for name in order}
        leaves = pytree.tree_leaves((inputs.args, kwargs))
        if len(leaves) != len(self.inputs):
            raise ValueError(
                f"the model was traced with {len(self.inputs)} inputs ({', '.join(self.inputs)}), not with "
                f"{len(leaves)}; give batches of the same inputs, and no labels among them"
            )
        return values | dict(zip(self.inputs, leaves, strict=True))

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
            values.pop(name, None)

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
    try:
        with evaluating(model), marked(model), torch.no_grad(), _silence():
            exported = functional(
                torch.export.export(
                    model, inputs.args, dict(inputs.kwargs), dynamic_shapes=inputs.dynamic(), strict=False
                )
            )
    except Exception as error:  # torch.export raises anything, also what the forward raises
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise Refused(
            "torch.export", type(model).__name__, f"it cannot follow the forward{_where(error)} ({line})",
            "run the model on these inputs to see whether they fit, or trace a part of it with submodule=",
        ) from error  # fmt: skip
    return from_exported(exported, model)


@contextmanager
def _silence() -> Iterator[None]:
    """PyTorch logs pages about an error that it then raises, and one sentence follows here."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _where(error: BaseException) -> str:
    """The last line of the model's own code that an error came through; empty where it met none."""
    ours = tuple(str(Path(module.__file__ or "").parent) for module in (torch, errors))
    found = ""
    while True:
        for frame in traceback.extract_tb(error.__traceback__):
            if frame.line and not frame.filename.startswith((*ours, "<")):
                found = f" at {frame.filename}:{frame.lineno}, `{frame.line}`"
        following = error.__cause__ or error.__context__
        if found or following is None:
            return found
        error = following


def from_exported(exported: torch.export.ExportedProgram, model: nn.Module) -> Program:
    """The program in an exported one; its tensors are the caller's own, not copies."""
    signature = exported.graph_signature
    state = {**signature.inputs_to_parameters, **signature.inputs_to_buffers,
             **signature.inputs_to_lifted_tensor_constants}  # fmt: skip
    own = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    tensors = {name: own[name] if name in own else exported.constants[name] for name in state.values()}
    graph = exported.graph_module.graph
    returned = cast(Sequence[Any], graph.output_node().args[0])[-len(signature.user_outputs) :]  # after written buffers
    nodes = _alive(graph, returned)
    return Program(
        nodes=nodes,
        state=state,
        tensors={name: tensor.detach() for name, tensor in tensors.items()},
        inputs=tuple(map(str, signature.user_inputs)),
        outputs=tuple(returned),
        in_spec=exported.call_spec.in_spec,
        out_spec=exported.call_spec.out_spec,
        any_batch=any(map(_is_free, graph.nodes)),
        last_use=_last_uses(nodes, keep={leaf.name for leaf in returned if isinstance(leaf, Node)}),
    )


def _is_free(node: Node) -> bool:
    """Whether an input has a size that is not fixed."""
    value = node.meta.get("val")
    return (
        node.op == "placeholder" and isinstance(value, Tensor) and any(isinstance(s, torch.SymInt) for s in value.shape)
    )


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
