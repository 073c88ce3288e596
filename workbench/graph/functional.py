"""Makes an exported program functional: no operation writes into its input, so that every value can be kept.

PyTorch's own way traces the program anew, which costs more than the export. Most models write only into what nobody
reads again (``relu_``, ``x += y``): there, each such operation becomes its functional form in place. The others go
PyTorch's way.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.fx import Node
from torch.fx.node import map_arg

from workbench.graph.call import op_name
from workbench.graph.rules import known

# composites that give views of their input and that rewriting knows; PyTorch's way takes all others of their kind apart
PLAIN_VIEWS = frozenset("chunk contiguous flatten reshape swapaxes to unflatten".split())
SAME = frozenset("alpha_dropout dropout feature_dropout feature_alpha_dropout".split())  # in eval mode, their input


def functional(exported: ExportedProgram) -> ExportedProgram:
    """The same program without writes, of operations that have a rule where they can be taken apart into such."""
    ops = {node.target for node in exported.graph.nodes if node.op == "call_function"}
    strange = {op for op in ops if isinstance(op, torch._ops.OpOverload) and not known(op_name(op).removesuffix("_"))}
    table = torch.export.default_decompositions() if strange else {}
    parts = {op: table[op] for op in strange if op in table}
    if parts or any(map(_is_taken_apart, ops)) or not _replace_writes(exported.graph):
        return exported.run_decompositions(parts)
    return exported


def _is_taken_apart(op: Any) -> bool:
    """Whether an op is left to PyTorch: a sub-graph, or a composite view that is not plain."""
    if isinstance(op, torch._ops.HigherOrderOperator):
        return True
    return (
        isinstance(op, torch._ops.OpOverload)
        and op.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd)
        and any(result.alias_info for result in op._schema.returns)
        and op_name(op) not in PLAIN_VIEWS
    )


def _replace_writes(graph: fx.Graph) -> bool:
    """Give every write its functional form. False, with the graph as it was, where a write is seen elsewhere."""
    places = {node: place for place, node in enumerate(graph.nodes)}
    memory: dict[Node, Node] = {}  # value -> the first value in the same memory
    same: dict[Node, Node] = {}  # what a write returns -> what it wrote into
    sharing: dict[Node, list[Node]] = {}
    writes: dict[Node, Any] = {}
    for node in graph.nodes:
        source = _aliased(node)
        memory[node] = memory[source] if source else node
        sharing.setdefault(memory[node], []).append(node)
        if not _writes(node):
            continue
        target = functional_form(node)
        if source is None or target is None:
            return False
        same[node] = same.get(source, source)
        others = [other for other in sharing[memory[node]] if same.get(other, other) is not same[node]]
        if any(places[user] > places[node] for other in others for user in other.users):
            return False
        writes[node] = target
    now: dict[Node, Node] = {}  # what was written into -> what the last write made of it
    for node in list(graph.nodes):
        if now:
            node.args, node.kwargs = map_arg((node.args, node.kwargs), lambda used: now.get(same.get(used, used), used))
        if node in writes:
            node.target = writes[node]
            now[same[node]] = node
    return True


def _aliased(node: Node) -> Node | None:
    """The argument whose memory a node's result may share."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        shares = any(result.alias_info for result in target._schema.returns) or op_name(node) in SAME
    else:
        shares = op_name(node) == "getitem"
    return node.all_input_nodes[0] if shares and node.all_input_nodes else None


def _writes(node: Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def functional_form(node: Node) -> Any:
    """``relu`` for ``relu_``; None where there is none that computes the same."""
    target = node.target
    assert isinstance(target, torch._ops.OpOverload)
    packet = getattr(torch.ops.aten, op_name(node).removesuffix("_"), None)
    form = getattr(packet, target._overloadname, None)
    arguments = target._schema.arguments
    written = [a for a in arguments if a.alias_info and a.alias_info.is_write]
    if form is None or form._schema.is_mutable or written != arguments[:1]:
        return None
    if [a.name for a in form._schema.arguments] != [a.name for a in arguments]:
        return None
    types = {used.meta["val"].dtype for used in node.all_input_nodes if isinstance(used.meta.get("val"), Tensor)}
    return form if len(types) <= 1 else None  # a write keeps the type of what it writes into
