"""The allocation problem of a model: which widths its groups and ranks its layers may have, at what cost and loss."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

import numpy as np
from torch import Tensor

from workbench.allocate import Allocation, Choice, Problem, Resource, Solver, Term, solve
from workbench.allocate.budget import Budget
from workbench.allocate.exact import with_budget
from workbench.allocate.rounding import multiples
from workbench.cost.count import count
from workbench.cost.latency import LatencyTable
from workbench.cost.sizes import Product, products, sizes_of
from workbench.cost.work import work_products
from workbench.cost.writes import is_rewritten, write_products
from workbench.factorize import factorize_
from workbench.factorize.ladder import Ladder, with_ranks
from workbench.factorize.layers import Form
from workbench.graph.record import Factored
from workbench.graph.trace import ChannelGraph
from workbench.graph.winnow import record_of, smaller
from workbench.limits import Limits, multiples_of
from workbench.sensitivity import SensitivityCurves

PLACES = 4, 24  # of a layer's ranks, between so many of which the solver chooses from
TABLE = 1 << 21  # entries that a layer's costs may have, by in-width, out-width and rank

Layers = list[tuple[str, list[Product]]]


def width_problem(
    graph: ChannelGraph, curves: SensitivityCurves, budget: Budget, limits: Limits = Limits(),
    latency: LatencyTable | None = None,
) -> Problem:  # fmt: skip
    """One choice a group, the widths its curve knows and its multiple allows; the budgeted resources; the limits.

    A layer that may lose rank is one choice more, whose options are the places of its ladder.

    Raises
    ------
    ValueError
        A name in the budget or the limits means no group, a limit leaves one no width, or a budget of milliseconds has
        no table of this model and of all that its layers may become.
    Refused
        A cost cannot be told from the widths.
    """
    ladders = [curve.ladder for curve in curves if curve.ladder]
    choices, multiple = [], multiples_of(graph, budget.multiple, [ladder.layer for ladder in ladders])
    for curve in curves:
        ladder, step = curve.ladder, multiple[curve.ladder.layer if curve.ladder else curve.group]
        offered = ladder.places(step, _places(ladder)) if ladder else multiples(curve.units, step)
        widths = [width for width in offered if np.isfinite(curve.at(width))]
        choices.append(Choice(curve.group, tuple(widths), tuple(curve.at(width) for width in widths)))
    orders = _orders(curves)
    resources = [
        _measured(graph, ladders, budget, choices, latency) if name == "latency_ms"
        else _counted(name, graph, orders, ladders, budget, choices)
        for name in budget.amounts
    ]  # fmt: skip
    return limits.on(Problem(tuple(choices), tuple(resources)), graph)


def _places(ladder: Ladder) -> int:
    """How many ranks of a layer are offered: fewer where its widths already make large tables."""
    least, most = PLACES
    shape = ladder.site.layer.shape
    return max(least, min(most, TABLE // (shape[0] * shape[1])))


def _orders(curves: SensitivityCurves) -> dict[str, tuple[int, ...]]:
    """The order in which each group's units leave."""
    return {curve.group: curve.path.order for curve in curves if curve.ladder is None}


def _measured(
    graph: ChannelGraph, ladders: Sequence[Ladder], budget: Budget, choices: Sequence[Choice],
    table: LatencyTable | None,
) -> Resource:  # fmt: skip
    if table is None:
        raise ValueError("a budget of latency_ms needs a table of times; give latency=wb.measure_latency(graph)")
    if table.place["model"] != graph.fingerprint:
        raise ValueError(
            f"the latencies were measured on the model {table.place['model']}, this one is {graph.fingerprint}; "
            "measure this model"
        )
    return table.resource(choices, ladders, budget.limit("latency_ms", table.at({})))


def _counted(
    name: str, graph: ChannelGraph, orders: Mapping[str, Sequence[int]], ladders: Sequence[Ladder], budget: Budget,
    choices: Sequence[Choice],
) -> Resource:  # fmt: skip
    """A resource that is counted on the model: terms for what depends on widths, the rest as a constant."""
    dense = graph.cost().to_dict()[name]
    layers = COUNTS[name](graph, orders, ladders)
    place = {choice.name: number for number, choice in enumerate(choices)}
    terms = []
    for layer, parts in layers:
        tables: dict[tuple[int, ...], np.ndarray] = defaultdict(lambda: np.zeros((), np.int64))
        for part in (_chosen(part, place) for part in parts):
            if part.shares:
                key = tuple(sorted({place[share.group] for share in part.shares}))
                tables[key] = tables[key] + _table(part, [choices[number] for number in key])
        terms += [Term(layer, key, table) for key, table in tables.items()]
    whole = sum(term.costs[(-1,) * term.costs.ndim].item() for term in terms)
    total = dense
    if name == "activation_bytes":  # a rewritten model runs other operations than the dense one, all of which are known
        total = sum(part.factor * prod(share.counts[-1] for share in part.shares) for _, ps in layers for part in ps)
    return Resource(name, tuple(terms), constant=total - whole, budget=budget.limit(name, dense))


def settle(graph: ChannelGraph, curves: SensitivityCurves, problem: Problem, solver: Solver) -> Allocation:
    """The solver's allocation, at costs that the smaller model really has.

    Where a forward is rewritten, selections of channels may join it, whose bytes depend on which channels stay; what a
    layer writes may depend on how its input lies in memory, which its factors change. These are counted, and the
    budgets lowered by what is above them until none is.
    """
    held = {r.name: r.budget for r in problem.resources if r.name in ("activation_bytes", "size_bytes")}
    allocation = solve(problem, solver)
    if not held or not (any(curve.ladder for curve in curves) or is_rewritten(graph, _orders(curves))):
        return allocation
    while True:
        small = smaller(graph, graph.model, record_of(graph, kept_of(curves, allocation)))
        forms = forms_of(curves, allocation)
        factors = [Factored(layer, form.method.name, form.rank) for layer, (form, _) in forms.items()]
        cost = count(factorize_(small, factors, blank=True), graph.sample(2)).to_dict()
        over = {name: cost[name] - most for name, most in held.items() if cost[name] > most}
        if not over:
            return replace(allocation, costs=allocation.costs | {name: cost[name] for name in held})
        for name, excess in over.items():
            lower = min(problem.resource(name).budget - excess, allocation.costs[name] - 1)
            problem = with_budget(problem, name, lower)
        allocation = solve(problem, solver)


def kept_of(curves: SensitivityCurves, allocation: Allocation) -> dict[str, tuple[int, ...]]:
    """The units that each group keeps."""
    widths = [curve for curve in curves if curve.ladder is None]
    return {curve.group: curve.path.kept(allocation.options[curve.group]) for curve in widths}


def forms_of(curves: SensitivityCurves, allocation: Allocation) -> dict[str, tuple[Form, int]]:
    """What the layers become that lose rank, with the place on their ladders."""
    ladders = [curve.ladder for curve in curves if curve.ladder]
    places = {ladder.layer: (ladder.form(allocation.options[ladder.name]), allocation.options[ladder.name])
              for ladder in ladders}  # fmt: skip
    return {layer: (form, place) for layer, (form, place) in places.items() if form}


def _macs(graph: ChannelGraph, orders: Mapping[str, Sequence[int]], ladders: Sequence[Ladder]) -> Layers:
    changes = {ladder.layer: ladder.work for ladder in ladders}
    return with_ranks(work_products(graph, orders), changes, sizes_of(graph, orders))


def _params(graph: ChannelGraph, orders: Mapping[str, Sequence[int]], ladders: Sequence[Ladder]) -> Layers:
    return _elements(graph, orders, ladders, graph.parameters)


def _bytes(graph: ChannelGraph, orders: Mapping[str, Sequence[int]], ladders: Sequence[Ladder]) -> Layers:
    """Of parameters and buffers."""
    buffers = dict(graph.model.named_buffers())
    tensors = graph.parameters | {name: t for name, t in graph.program.tensors.items() if name in buffers}
    return [
        (name, [Product(part.factor * tensors[name].element_size(), part.shares) for part in parts])
        for name, parts in _elements(graph, orders, ladders, tensors)
    ]


def _elements(
    graph: ChannelGraph, orders: Mapping[str, Sequence[int]], ladders: Sequence[Ladder], tensors: Mapping[str, Tensor]
) -> Layers:
    sizes, changes = sizes_of(graph, orders), {ladder.site.layer.weight: ladder.elements for ladder in ladders}
    return with_ranks([(name, products(name, t.shape, sizes)) for name, t in tensors.items()], changes, sizes)


def _writes(graph: ChannelGraph, orders: Mapping[str, Sequence[int]], ladders: Sequence[Ladder]) -> Layers:
    """Padding that is not of zeros is taken as it was before a layer is factorised: ``settle`` counts it."""
    tensors = graph.program.tensors
    between = [(ladder.name, ladder.writes(tensors[ladder.site.layer.weight].element_size())) for ladder in ladders]
    return [*write_products(graph, orders), *between]


COUNTS = {"macs": _macs, "params": _params, "activation_bytes": _writes, "size_bytes": _bytes}


def _chosen(part: Product, place: Mapping[str, int]) -> Product:
    """A product in which groups that are not to be decided stay whole."""
    fixed = [share for share in part.shares if share.group not in place]
    return Product(
        part.factor * prod(share.counts[-1] for share in fixed), tuple(s for s in part.shares if s not in fixed)
    )


def _table(part: Product, choices: list[Choice]) -> np.ndarray:
    """A product for every combination of the choices' widths; a group that stands in it twice counts twice."""
    table = np.array(part.factor, np.int64)
    for choice in choices:
        widths = np.array(choice.options)
        counts = [np.array(share.counts)[widths] for share in part.shares if share.group == choice.name]
        table = table[..., None] * np.prod(counts, axis=0)
    return table
