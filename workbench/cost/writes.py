"""What a model writes as products of sizes: the activation memory that it will take at any widths.

Which sizes each written tensor has is not read off the operations, since a model's own forward runs others than its
exported program (in place, fused, taken apart). It is seen: the model is made smaller at random a few times, and each
dimension of each tensor that it then writes is the size, or the product of sizes, that changed in the same way.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from workbench.cost.count import Written, written
from workbench.cost.sizes import Product, Size, multiplied
from workbench.cost.work import ValueSizes
from workbench.errors import Refused
from workbench.graph.record import Record, recorded
from workbench.graph.trace import ChannelGraph
from workbench.graph.winnow import cut_model, rebuilt, record_of, smaller

PROBES = 10  # a size of another group looks the same in all of them once in 2**10 times where groups have two units
REMEDY = "give a budget for another resource"

Signature = tuple[int, ...]  # a size in each probe
_FOUND: WeakKeyDictionary[nn.Module, dict[Any, list[tuple[str, list[Product]]]]] = WeakKeyDictionary()
_REWRITTEN: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def write_products(graph: ChannelGraph, orders: Mapping[str, Sequence[int]]) -> list[tuple[str, list[Product]]]:
    """The bytes that every operation of the model writes for one sample, as products of what stays of the groups.

    Raises
    ------
    Refused
        What the smaller model writes does not follow from its widths alone.
    """
    key = tuple((name, tuple(order)) for name, order in orders.items())
    known = _FOUND.setdefault(graph.model, {})
    if key not in known:  # a search asks again and again
        known[key] = _found(graph, orders)
    return known[key]


def _found(graph: ChannelGraph, orders: Mapping[str, Sequence[int]]) -> list[tuple[str, list[Product]]]:
    probes = list(_probes(orders))
    runs = [written(small, graph.sample(2)) for small in _models(graph, orders, probes)]
    names = [[part.op for part in run] for run in runs]
    if any(other != names[0] for other in names):
        raise Refused(
            "activation_bytes", type(graph.model).__name__,
            "smaller models run other operations at other widths, so that what they write cannot be predicted", REMEDY,
        )  # fmt: skip
    known, batch = _known(graph, orders, probes), graph.sample(2).batch or 1
    found = []
    for parts in zip(*runs, strict=True):
        factors = [Size(parts[0].element), *_sizes(parts, known, type(graph.model).__name__)]
        found.append((parts[0].op, [Product(p.factor // batch, p.shares) for p in multiplied(factors)]))
    return found


def _probes(orders: Mapping[str, Sequence[int]]) -> Iterator[dict[str, int]]:
    draw = random.Random(0)
    for _ in range(PROBES):
        # not 1 where that can be avoided: a tensor of one channel is contiguous in any order, and is not copied
        yield {name: draw.randint(1 + (len(order) > 2), len(order)) for name, order in orders.items()}


def _models(
    graph: ChannelGraph, orders: Mapping[str, Sequence[int]], probes: Sequence[Mapping[str, int]]
) -> Iterator[nn.Module]:
    """The smaller models, unchecked."""
    rewritten = is_rewritten(graph, orders)
    for probe in probes:
        record = _record(graph, orders, probe)
        yield rebuilt(graph, graph.model, record) if rewritten else cut_model(graph.model, record.cuts)


def is_rewritten(graph: ChannelGraph, orders: Mapping[str, Sequence[int]]) -> bool:
    """Whether a smaller model's class is not the original's, whose forward then holds sizes of its own."""
    if graph.model not in _REWRITTEN:
        record = _record(graph, orders, next(_probes(orders)))
        found = recorded(smaller(graph, graph.model, record))
        _REWRITTEN[graph.model] = found is not None and found.rewritten
    return _REWRITTEN[graph.model]


def _record(graph: ChannelGraph, orders: Mapping[str, Sequence[int]], widths: Mapping[str, int]) -> Record:
    return record_of(graph, {name: orders[name][len(orders[name]) - kept :] for name, kept in widths.items()})


def _known(
    graph: ChannelGraph, orders: Mapping[str, Sequence[int]], probes: Sequence[Mapping[str, int]]
) -> dict[Signature, Size]:
    """The sizes of all values and tensors that depend on widths, by what they are in the probes."""
    sizes = ValueSizes(graph, orders)
    found: dict[Signature, Size] = {}
    for name, shape in graph.provenance.run.shapes.items():
        if isinstance(shape, list):  # of several tensors: each is a value of its own
            continue
        for dim in range(len(shape)):
            size = sizes.of(name, dim)
            if size.shares:
                whole = {share.group: len(share.counts) - 1 for share in size.shares}
                found.setdefault(tuple(size.at({**whole, **probe}) for probe in probes), size)
    return found


def _sizes(parts: Sequence[Written], known: Mapping[Signature, Size], model: str) -> list[Size]:
    """The sizes whose product is the number of elements of a tensor, which the probes saw in different shapes."""
    found: list[Size] = []
    for signature in zip(*(part.shape for part in parts), strict=True):
        factors = _factors(signature, known)
        if factors is None:
            whole = _factors(tuple(prod(part.shape) for part in parts), known)
            if whole is not None:
                return whole
            raise Refused(
                "activation_bytes", model,
                f"{parts[0].op} writes a tensor of the shape {parts[0].shape}, no product of known widths", REMEDY,
            )  # fmt: skip
        found += factors
    return found


def _factors(signature: Signature, known: Mapping[Signature, Size], most: int = 3) -> list[Size] | None:
    """At most so many known sizes, and a number, whose product is what was seen."""
    if len(set(signature)) == 1:
        return [Size(signature[0])]
    if signature in known:
        return [known[signature]]
    for other, size in known.items() if most > 1 else ():
        if all(seen % one == 0 for seen, one in zip(signature, other, strict=True) if one) and all(other):
            rest = tuple(seen // one for seen, one in zip(signature, other, strict=True))
            factors = _factors(rest, known, most - 1)
            if factors is not None:
                return [size, *factors]
    return None
