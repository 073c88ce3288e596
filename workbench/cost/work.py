"""The multiplications of a model as products of sizes: what each operation will cost at any widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch.fx import Node

from workbench.cost.sizes import Product, Share, Size, multiplied, sizes_of
from workbench.graph.call import bind, layer_of, op_name
from workbench.graph.labels import flat, varied
from workbench.graph.trace import ChannelGraph

Dim = tuple[str, int]  # a value of the program and one of its dimensions


@dataclass(frozen=True)
class Work:
    """The MACs of one operation for one sample: the product of the sizes of some dimensions."""

    name: str
    dims: tuple[Dim, ...]


def works(graph: ChannelGraph) -> list[Work]:
    """Every operation that multiplies and adds, in the order they run."""
    found = []
    for node in graph.program.nodes:
        for dims in _dims(node, graph):
            name = layer_of(node) or op_name(node)
            found.append(Work(name, tuple(dims)))
    return found


def _dims(node: Node, graph: ChannelGraph) -> list[list[Dim]]:
    op, shapes = op_name(node), graph.provenance.run.shapes

    def dims(name: str, *chosen: int) -> list[Dim]:
        value = given[name].name
        rank = len(shapes[value])
        return [(value, dim % rank) for dim in (chosen or range(rank))]

    given = bind(node, node.args, node.kwargs)
    out = (
        [(node.name, dim) for dim in range(len(shapes[node.name]))]
        if not isinstance(shapes.get(node.name), list) and node.name in shapes
        else []
    )
    if op.startswith("conv_transpose"):
        return [dims("input") + dims("weight")[1:]]
    if op in ("conv1d", "conv2d", "conv3d"):
        return [out + dims("weight")[1:]]
    if op == "linear":
        return [out + dims("weight", 1)]
    if op in ("matmul", "mm", "bmm", "mv", "dot", "addmm", "baddbmm"):
        left = next(
            name
            for name in ("self", "mat1", "batch1")
            if name in given and (name != "self" or (op[0] in "mbd" and op != "baddbmm"))
        )
        return [out + dims(left, -1)]
    if op == "scaled_dot_product_attention":
        return [dims("query") + dims("key", -2), dims("query")[:-1] + dims("value", -2, -1)]
    if op in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
        steps = dims("input")[:-1]
        return [[*steps, (w.name, 0), (w.name, 1)] for w in given["params"] if len(shapes[w.name]) == 2]
    if op == "einsum":
        return _pairwise(given["equation"], [operand.name for operand in given["tensors"]])
    return []


def _pairwise(equation: str, names: Sequence[str]) -> list[list[Dim]]:
    """An einsum as torch computes it: two operands at a time from the left, which sums what nobody needs any more."""
    if "..." in equation:
        return []
    terms, arrow, result = equation.replace(" ", "").partition("->")
    if not arrow:
        result = "".join(letter for letter in terms if terms.count(letter) == 1)
    first, *rest = terms.split(",")
    places = {letter: (name, dim) for name, term in zip(names, (first, *rest), strict=True)
              for dim, letter in enumerate(term)}  # fmt: skip
    found, held = [], dict.fromkeys(first)
    for number, term in enumerate(rest):
        held |= dict.fromkeys(term)
        found.append([places[letter] for letter in held])
        later = result + "".join(rest[number + 1 :])
        held = {letter: None for letter in held if letter in later}
    return found


def work_products(graph: ChannelGraph, orders: Mapping[str, Sequence[int]]) -> list[tuple[str, list[Product]]]:
    """The MACs of every operation for one sample, as products of what stays of the groups."""
    sizes = ValueSizes(graph, orders)
    batch = graph.sample(2).batch or 1
    found = []
    for work in works(graph):
        parts = multiplied([sizes.of(*dim) for dim in work.dims])
        found.append((work.name, [Product(part.factor // batch, part.shares) for part in parts]))
    return found


class ValueSizes:
    """How many positions of any value stay, by its labels."""

    def __init__(self, graph: ChannelGraph, orders: Mapping[str, Sequence[int]]):
        self.provenance = graph.provenance
        atoms = graph.provenance.atoms
        self.owner = np.full((atoms.count, 2), -1)  # atom -> number of the group, rank in the order of leaving
        self.names = [group.name for group in graph.groups]
        own = sizes_of(graph, orders)
        nodes = {tensor: node for node, tensor in graph.program.state.items()}
        gathers = [member for group in graph.groups for member in group.members if member.gather]
        self.known: dict[Dim, Size] = {(nodes[m.tensor], m.dim): own[m.tensor, m.dim] for m in gathers}
        for number, group in enumerate(graph.groups):
            order = list(orders.get(group.name, range(group.units)[::-1]))
            rank = np.empty(group.units, int)
            rank[order] = np.arange(group.units)
            for member in group.members:
                if member.gather:  # the layer alone loses them, not the value that it reads
                    continue
                dim = graph.provenance.owned[member.tensor][member.dim].long().numpy()
                for unit, indices in enumerate(member.indices):
                    first = atoms.representatives[dim[list(indices)]] if indices else np.empty(0, int)
                    self.owner[first] = (number, rank[unit])
        self.units = [group.units for group in graph.groups]

    def of(self, name: str, dim: int) -> Size:
        """The size of one dimension of a value."""
        if (name, dim) not in self.known:
            self.known[name, dim] = self._size(name, dim)
        return self.known[name, dim]

    def _size(self, name: str, dim: int) -> Size:
        size = self.provenance.run.shapes[name][dim]
        labels = self.provenance.labels.get(name, ())
        label = next((one for one in labels if not isinstance(one, tuple | list) and varied(one) == (dim,)), None)
        if label is None:
            return Size(size)
        atoms = flat(label).long().numpy()
        owners = self.owner[self.provenance.atoms.representatives[atoms[atoms >= 0]]]
        owners = owners[owners[:, 0] >= 0]
        shares = []
        for number in np.unique(owners[:, 0]).tolist():
            ranks = owners[owners[:, 0] == number, 1]
            lost = np.bincount(ranks, minlength=self.units[number])  # by the step at which a unit leaves
            counts = np.concatenate([[0], np.cumsum(lost[::-1])])
            shares.append(Share(self.names[number], tuple(counts.tolist())))
        return Size(size - len(owners), tuple(shares))
