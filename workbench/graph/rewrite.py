"""Rewrites the program of a model into a smaller one: the way where sizes are written in the forward.

Every value of the new graph is what stays of the old one. Operations that hold no sizes are copied; the others get new
constants. An operation that moves data is tried on positions: where its constants cannot give what stays in the right
order, an ``index_select`` is put behind it; where no selection along one dimension can, it is refused.
"""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, fx, nn
from torch.fx import Node
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.fx.node import map_aggregate
from torch.utils import _pytree as pytree

from workbench.errors import Refused
from workbench.graph.call import LIKE, MAKERS, bind, layer_of, op_name
from workbench.graph.constants import CORRECTORS, Site, Size
from workbench.graph.modules import Modules
from workbench.graph.program import Program
from workbench.graph.rules.movement import BY_PLACES, MOVES, SPLITS, picked_dims
from workbench.graph.survivors import Kept, Survivors, compact, positions_along

REMEDY = "leave the groups involved at full width, or take these sizes from the tensors in the forward"
RESHAPE = torch.ops.aten.reshape.default
VIEWS = ("view", "_unsafe_view")
UNIFORM = "full zeros ones empty rand randn new_zeros new_ones new_full new_empty".split()  # no element is special


def rewrite(
    model: nn.Module, program: Program, survivors: Survivors, tensors: Mapping[str, Tensor],
    gathered: Mapping[str, Sequence[int]],
) -> fx.GraphModule:  # fmt: skip
    """A graph module that computes what stays of a program's values.

    Parameters
    ----------
    model : the original; it lends its modules and is not changed
    survivors : what stays
    tensors : the smaller tensors, by the names of the program's
    gathered : the weights whose layers pick their inputs, with the places of those

    Raises
    ------
    Refused
        An operation cannot give what stays.
    """
    writer = _Writer(program, survivors, Modules(model, program, tensors), gathered)
    writer.write()
    module = fx.GraphModule(writer.modules.root, writer.graph, class_name=type(model).__name__)
    return module.train(model.training)


class _Writer:
    def __init__(self, program: Program, survivors: Survivors, modules: Modules, gathered: Mapping[str, Sequence[int]]):
        self.program, self.survivors, self.run = program, survivors, survivors.provenance.run
        self.graph, self.modules, self.gathered = fx.Graph(), modules, gathered
        self.values: dict[str, Any] = {}  # old node -> what stands for it in the new graph
        self.constants = 0
        self.device: Any = None
        self.arguments = _argument_names(modules.model, program)

    def write(self) -> None:
        """Inputs, operations, outputs."""
        for name, argument in zip(self.program.inputs, self.arguments.leaves, strict=True):
            self.values[name] = self.graph.placeholder(argument)
        for node in self.program.nodes:
            self.values[node.name] = self._node(node)
        outputs = [self.values[leaf.name] if isinstance(leaf, Node) else leaf for leaf in self.program.outputs]
        self.graph.output(tuple(outputs))
        info = _PyTreeInfo(list(self.arguments.given), self.program.in_spec, self.program.out_spec)
        self.graph.set_codegen(_PyTreeCodeGen(info))

    def _new(self, argument: Any) -> Any:
        """An argument as it stands in the new graph."""

        def new(leaf: Any) -> Any:
            if isinstance(leaf, Size):
                return self._size(leaf)
            if isinstance(leaf, torch.device):
                return self._device()
            return self._value(leaf) if isinstance(leaf, Node) and leaf.graph is not self.graph else leaf

        return map_aggregate(argument, new)

    def _now(self, argument: Any) -> Any:
        """An argument as the number, or the tensor of places, that it is now."""

        def now(leaf: Any) -> Any:
            if isinstance(leaf, Size):
                return leaf.now
            return self.run.numbers[leaf.name] if isinstance(leaf, Node) else leaf

        return map_aggregate(argument, now)

    def _value(self, node: Node) -> Any:
        """What stands for an old node; tensors of the model are fetched when they are first needed."""
        if node.name not in self.values:
            name = self.program.state.get(node.name)
            if name is None:
                raise AssertionError(f"{node.name} is needed before it is computed")
            self.values[node.name] = self.graph.get_attr(self.modules.hold(name))
        return self.values[node.name]

    def _device(self) -> Any:
        """Where the first input is: a model that was traced on one device may run on another."""
        if self.device is None:
            self.device = self.graph.call_function(getattr, (self.values[self.program.inputs[0]], "device"))
        return self.device

    def _size(self, size: Size) -> Any:
        """A size in the new graph; one that depends on the batch is scaled."""
        if not isinstance(size.given, Node):
            return size.now
        return self._scaled(self._value(size.given), self.run.numbers[size.given.name], size.now)

    def _scaled(self, value: Any, before: int, now: int) -> Any:
        """A number that depends on the batch, in another proportion."""
        if before == now:
            return value
        common = math.gcd(before, now)
        larger = self.graph.call_function(operator.mul, (value, now // common))
        return self.graph.call_function(operator.floordiv, (larger, before // common))

    def _node(self, node: Node) -> Any:
        """What stands for an operation; a layer that gathers is given what it reads."""
        arguments = bind(node, node.args, node.kwargs) if self.gathered else {}
        weight, source = arguments.get("weight"), arguments.get("input")
        kept = self.gathered.get(self.program.state.get(weight.name, "")) if isinstance(weight, Node) else None
        if kept is None or not isinstance(weight, Node) or not isinstance(source, Node):
            return self._written(node)
        whole, dim = self._value(source), len(self.run.shapes[source.name]) - len(self.run.shapes[weight.name]) + 1
        self.values[source.name] = self._selected(whole, {dim: torch.tensor(kept)})
        written = self._written(node)
        self.values[source.name] = whole
        return written

    def _written(self, node: Node) -> Any:
        if node.name in self.run.numbers and not isinstance(self.run.numbers[node.name], Tensor):
            return self._number(node)
        called = self.modules.call(node, self.graph, self._new)
        if called is not None:
            return called
        if op_name(node) == "getitem":
            return self._item(node)
        arguments = bind(node, node.args, node.kwargs)
        if op_name(node) == "copy":
            return self._assigned(node, arguments)
        if not self.survivors.lose(node):
            return self._copied(node)
        if not node.all_input_nodes or op_name(node) in MAKERS:
            return self._made(node, arguments)
        if op_name(node) in BY_PLACES:
            return self._picked(node, arguments)
        return self._corrected(node, arguments)

    def _copied(self, node: Node) -> Any:
        target = RESHAPE if op_name(node) in VIEWS else node.target  # strides may differ from the traced ones
        return self.graph.call_function(target, self._new(node.args), self._new(dict(node.kwargs)))  # type: ignore[arg-type]

    def _assigned(self, node: Node, arguments: dict[str, Any]) -> Any:
        """``copy`` has no derivative: what is assigned, in the shape and type of what it is assigned to."""
        target, source = arguments["self"], arguments["src"]
        value = self._value(source)
        if self.survivors.shape(source.name) != self.survivors.shape(node.name):
            value = self.graph.call_function(torch.ops.aten.expand_as.default, (value, self._value(target)))
        types = {one.meta["val"].dtype for one in (target, source)}
        return (
            value
            if len(types) == 1
            else self.graph.call_function(torch.ops.aten.type_as.default, (value, self._value(target)))
        )

    def _number(self, node: Node) -> Any:
        """A size, or arithmetic on sizes. Every number is that of the old graph: a size that shrank is scaled back."""
        value = self._copied(node)
        arguments = bind(node, node.args, node.kwargs)
        if op_name(node) != "sym_size":
            return value
        source, dim = arguments["self"].name, arguments["dim"]
        before, now = self.run.shapes[source][dim], self.survivors.shape(source)[dim]
        return self._scaled(value, now, before)

    def _item(self, node: Node) -> Any:
        source, place = node.args
        assert isinstance(source, Node)
        assert isinstance(place, int)
        value = self.values[source.name]
        return value[place] if isinstance(value, tuple) else self.graph.call_function(operator.getitem, (value, place))

    def _call(self, target: Any, arguments: Mapping[str, Any]) -> Any:
        """An op by the names of its arguments."""
        target = RESHAPE if target in (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default) else target
        new = self._new({"shape" if target is RESHAPE and name == "size" else name: v for name, v in arguments.items()})
        schema = target._schema.arguments
        args = tuple(new[argument.name] for argument in schema if not argument.kwarg_only)
        return self.graph.call_function(target, args, {a.name: new[a.name] for a in schema if a.kwarg_only})

    def _made(self, node: Node, arguments: dict[str, Any]) -> Any:
        """A tensor made of sizes and numbers: smaller, or (where every element is another number) cut."""
        if op_name(node) in LIKE and self.survivors.shape(node.name) != self.survivors.shape(arguments["self"].name):
            return self._made_like(node, arguments)
        if op_name(node) in LIKE:
            return self._copied(node)
        if op_name(node) in UNIFORM:
            return self._call(node.target, arguments | CORRECTORS["zeros"](Site(node, arguments, self.survivors)))
        return self._selected(self._copied(node), self.survivors.of(node.name))

    def _made_like(self, node: Node, arguments: dict[str, Any]) -> Any:
        """Of a tensor of another shape than the one that it was like."""
        wide = self._copied(node)
        for dim, (has, now) in enumerate(
            zip(self.survivors.shape(arguments["self"].name), self.survivors.shape(node.name), strict=True)
        ):
            if now > has:  # every element is as good as another
                first = self.graph.call_function(torch.ops.aten.slice.Tensor, (wide, dim, 0, 1))
                sizes = [now if d == dim else -1 for d in range(len(self.run.shapes[node.name]))]
                wide = self.graph.call_function(torch.ops.aten.expand.default, (first, sizes))
            elif now < has:
                wide = self.graph.call_function(torch.ops.aten.slice.Tensor, (wide, dim, 0, now))
        return wide

    def _selected(self, value: Any, kept: Kept) -> Any:
        for dim, positions in kept.items():
            select = torch.ops.aten.index_select.default
            value = self.graph.call_function(select, (value, dim, self._constant(positions)))
        return value

    def _constant(self, tensor: Tensor) -> Any:
        self.constants += 1
        return self.graph.get_attr(self.modules.constant(f"kept_{self.constants}", tensor))

    def _corrected(self, node: Node, arguments: dict[str, Any]) -> Any:
        """The op with new constants, tried on positions where it only moves data."""
        name, target = op_name(node), node.target
        corrector = CORRECTORS.get(name)
        corrected = corrector(Site(node, arguments, self.survivors)) if corrector else {}
        if "split_sizes" in corrected:
            target = torch.ops.aten.split_with_sizes.default
            arguments = {"self": arguments["self"], "dim": arguments["dim"]}
        changed = arguments | corrected
        return self._ordered(node, target, changed) if name in MOVES or name in SPLITS else self._call(target, changed)

    def _ordered(self, node: Node, target: Any, changed: dict[str, Any]) -> Any:
        """What the op gives, brought into the order in which it should be; where it cannot run, a selection instead."""
        moved = node.all_input_nodes[0]
        shape, lost = self.run.shapes[moved.name], self.survivors.of(moved.name)
        several = self.survivors.several(node.name)
        kept = self.survivors.each(node.name) if several else [self.survivors.of(node.name)]
        orders: list[Kept] = [{} for _ in kept]
        for dim in lost:
            places = positions_along(shape, dim)
            # every number of the old graph is known; the moved tensor's places stand for it
            was = _listed(move_places(node.target, self._old(bind(node, node.args, node.kwargs), moved, places)))
            wanted = [compact(one, stay) for one, stay in zip(was, kept, strict=True)]
            try:
                gives = _listed(move_places(target, self._now_with(changed, moved, compact(places, lost))))
            except RuntimeError:
                return self._selection(node, moved)
            for one, other, order in zip(wanted, gives, orders, strict=True):
                found = order_of(one, other)
                if found is None:
                    return self._selection(node, moved)
                order |= found
        new = self._call(target, changed)
        if not any(orders):
            return new
        items = [self.graph.call_function(operator.getitem, (new, i)) for i in range(len(orders))] if several else [new]
        ordered = tuple(self._selected(item, order) for item, order in zip(items, orders, strict=True))
        return ordered if several else ordered[0]

    def _selection(self, node: Node, moved: Node) -> Any:
        """An op that changes places along one dimension alone, as a selection of what stays."""
        shape, lost = self.run.shapes[moved.name], self.survivors.of(moved.name)
        chosen: Kept = {}
        for dim, size in enumerate(shape):
            places = positions_along(shape, dim)
            was = move_places(node.target, self._old(bind(node, node.args, node.kwargs), moved, places))
            if isinstance(was, list | tuple) or was.ndim != len(shape):
                self._refuse(node, "no selection along one dimension gives what stays in the right order")
            if size > 1 and not torch.equal(was, positions_along(was.shape, dim)):
                found = order_of(compact(was, self.survivors.of(node.name)), compact(places, lost))
                if found is None or set(found) - {dim}:
                    self._refuse(node, "no selection along one dimension gives what stays in the right order")
                chosen |= found
        return self._selected(self._value(moved), chosen)

    def _old(self, arguments: dict[str, Any], moved: Node, places: Tensor) -> dict[str, Any]:
        known = self.run.numbers | {moved.name: places}
        found: dict[str, Any] = map_aggregate(
            arguments, lambda leaf: known[leaf.name] if isinstance(leaf, Node) else leaf
        )
        return found

    def _now_with(self, arguments: dict[str, Any], moved: Node, places: Tensor) -> dict[str, Any]:
        found: dict[str, Any] = map_aggregate(arguments, lambda leaf: places if leaf is moved else self._now(leaf))
        return found

    def _picked(self, node: Node, arguments: dict[str, Any]) -> Any:
        """By known places: where those elements are now. Unknown places are along dimensions that lose nothing."""
        moved = node.all_input_nodes[0]
        given = [used for used in node.all_input_nodes if used is not moved]
        if not all(used.name in self.run.owned and used.name in self.run.numbers for used in given):
            return self._call(node.target, arguments)
        shape, lost, kept = self.run.shapes[moved.name], self.survivors.of(moved.name), self.survivors.of(node.name)
        dims = picked_dims(op_name(node), arguments, len(shape))
        first = self._first_dim(node, dims, given)
        new: dict[Node, Any] = {}
        for used, dim in zip(given, dims, strict=True):
            places = self.run.numbers[used.name]
            if places.dtype == torch.bool:
                self._refuse(node, "it takes by a mask")
            now = torch.full((shape[dim],), -1)
            stay = lost.get(dim, torch.arange(shape[dim]))
            now[stay] = torch.arange(len(stay))
            own = {d - first: p for d, p in kept.items() if 0 <= d - first < places.ndim}
            cut = compact(now[places % shape[dim]], own)
            if (cut < 0).any():
                self._refuse(node, "it takes what left")
            new[used] = self._constant(cut)
        changed = map_aggregate(dict(arguments), lambda leaf: new.get(leaf, leaf) if isinstance(leaf, Node) else leaf)
        return self._call(node.target, changed)

    def _first_dim(self, node: Node, dims: list[int], given: list[Node]) -> int:
        """The dimension of the result at which the dimensions of the places begin."""
        if op_name(node) != "index":
            return dims[0] if op_name(node) == "index_select" else 0
        if len({tuple(self.run.shapes[used.name]) for used in given}) > 1:
            self._refuse(node, "its places are broadcast")
        return dims[0] if dims == list(range(dims[0], dims[0] + len(dims))) else 0

    def _refuse(self, node: Node, why: str) -> NoReturn:
        raise Refused(op_name(node), layer_of(node), why, REMEDY)


def move_places(target: Any, arguments: Mapping[str, Any]) -> Any:
    """An op that moves data, run on places; ``view`` as ``reshape``, as places have strides of 0."""
    if "size" in arguments and "view" in str(target):
        return arguments["self"].reshape(arguments["size"])
    return target(**{name: value for name, value in arguments.items() if value is not None})


def order_of(wanted: Tensor, given: Tensor) -> Kept | None:
    """The selection along one dimension that makes one tensor of places the other; empty where they are equal."""
    if wanted.shape == given.shape and torch.equal(wanted, given):
        return {}
    for dim in range(given.ndim):
        sizes = [size for d, size in enumerate(given.shape) if d != dim]
        if wanted.ndim == given.ndim and sizes == [size for d, size in enumerate(wanted.shape) if d != dim]:
            rows, goals = (side.movedim(dim, 0).flatten(1) for side in (given, wanted))
            where = {row.numpy().tobytes(): place for place, row in reversed(list(enumerate(rows)))}
            places = [where.get(goal.numpy().tobytes()) for goal in goals]
            if None not in places:
                return {dim: torch.tensor(places)}
    return None


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


class _argument_names:  # noqa: N801  # a function with two results
    """``given``: the names of the forward's arguments; ``leaves``: one name for each tensor among them."""

    def __init__(self, model: nn.Module, program: Program):
        args, kwargs = (program.in_spec.child(place) for place in (0, 1))
        parameters = inspect.signature(model.forward).parameters.values()
        named = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        count = args.num_children
        positional = named[:count] if len(named) >= count else [f"input_{place}" for place in range(count)]
        self.given = (*positional, *kwargs.context)
        wrong = [name for name in self.given if not str(name).isidentifier()]
        if wrong:
            raise Refused("forward", type(model).__name__, f"its argument {wrong[0]!r} is no Python name", REMEDY)
        children = [*args.children(), *kwargs.children()]
        self.leaves = [
            name if child.num_leaves == 1 else f"{name}_{place}"
            for name, child in zip(self.given, children, strict=True)
            for place in range(child.num_leaves)
        ]
        assert pytree.tree_unflatten(list(self.leaves), program.in_spec)
