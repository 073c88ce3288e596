"""Ladders: the forms that a layer may take, from the cheapest to the dearest that is cheaper than the layer itself."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from workbench.calibrate import Statistics
from workbench.cost.sizes import Product, Share, Size, Sizes, multiplied
from workbench.factorize.layers import Form, grouped
from workbench.factorize.shape import Method, Stage, metric_of, params_of
from workbench.factorize.sites import Site
from workbench.fisher import weighed
from workbench.graph.trace import ChannelGraph
from workbench.select.path import Path

LADDER = "/rank"  # behind the layer's name: no module is called so


@dataclass(frozen=True)
class Ladder:
    """The forms of one layer: each costs more than the one below it, and loses less.

    A place on it is a number, as the width of a channel group is: of ``units`` the last is the layer as it was, k the
    form number k - 1. ``path`` says what each loses, all of a method from one decomposition.
    """

    site: Site
    forms: tuple[Form, ...]
    path: Path

    @property
    def name(self) -> str:
        """Of the choice: no layer is called so."""
        return f"{self.layer}{LADDER}"

    @property
    def layer(self) -> str:
        """The layer's name."""
        return self.site.layer.name

    @property
    def units(self) -> int:
        """How many places it has."""
        return len(self.forms) + 1

    def form(self, place: int) -> Form | None:
        """What the layer becomes at a place; None where it stays as it was."""
        return self.forms[place - 1] if place < self.units else None

    def places(self, multiple: int, most: int) -> list[int]:
        """Those whose rank is a multiple, at most about so many, evenly spread, and the last."""
        fit = [place for place, form in enumerate(self.forms, 1) if form.rank % multiple == 0]
        step = max(1, -(-len(fit) // most))
        return [*fit[::-1][::step][::-1], self.units]

    def work(self, products: Sequence[Product], sizes: Sizes) -> list[Product]:
        """The layer's multiplications for a sample, given those of the layer as it was."""
        return self._products(products, sizes, [self.site.positions(stages) for stages in self._stages()])

    def elements(self, products: Sequence[Product], sizes: Sizes) -> list[Product]:
        """The elements of its weights, given those of the layer's own weight."""
        return self._products(products, sizes, [[1] * len(stages) for stages in self._stages()])

    def writes(self, element: int) -> list[Product]:
        """The bytes that all stages but the last write for a sample, of so many bytes an element."""
        shape, counts = self.site.shape, [0] * (self.units + 1)
        for place, (form, stages) in enumerate(zip(self.forms, self._stages(), strict=True), 1):
            counts[place] = shape.groups * form.rank * sum(self.site.positions(stages)[:-1]) * element
        return [Product(1, (Share(self.name, tuple(counts)),))]

    def _stages(self) -> list[Sequence[Stage]]:
        return [form.method.stages(self.site.shape, form.rank) for form in self.forms]

    def _products(self, whole: Sequence[Product], sizes: Sizes, times: Sequence[Sequence[int]]) -> list[Product]:
        """What the layer costs at its last place, and its stages at the others, as shares that a place decides."""
        shape, layer = self.site.shape, self.site.layer
        zeros = [0] * (self.units + 1)
        dense = Share(self.name, (*zeros[:-1], 1))
        found = [replace(product, shares=(*product.shares, dense)) for product in whole]
        into, out, between = zeros.copy(), zeros.copy(), zeros.copy()
        for place, (form, counts) in enumerate(zip(self.forms, times, strict=True), 1):
            for stage, count in zip(form.method.stages(shape, form.rank), counts, strict=True):
                cost = count * stage.size(shape)
                if stage.inputs is None:
                    into[place] += cost // shape.inputs
                elif stage.outputs is None:
                    out[place] += cost // (shape.groups * shape.outputs)
                else:
                    between[place] += cost
        for dim, costs in ((1, into), (0, out)):
            size = sizes.get((layer.weight, dim), Size(layer.shape[dim]))
            share = Share(self.name, tuple(costs))
            found += [replace(part, shares=(*part.shares, share)) for part in multiplied([size])]
        return [*found, Product(1, (Share(self.name, tuple(between)),))]


def ladders_of(graph: ChannelGraph, sites: Sequence[Site], statistics: Statistics) -> dict[str, Ladder]:
    """The ladder of each layer that has one, by its own name."""
    found = {}
    for site in sites:
        ladder = _ladder(graph, site, statistics)
        if ladder.forms:
            found[ladder.name] = ladder
    return found


Entry = tuple[int, float, float, Form]  # MACs, relative error, loss in nats a sample


def _ladder(graph: ChannelGraph, site: Site, statistics: Statistics) -> Ladder:
    best: list[Entry] = []
    for entry in sorted(_entries(graph, site, statistics), key=lambda entry: entry[:2]):
        if not best or entry[1] < best[-1][1]:
            best.append(entry)
    best.reverse()  # as places are given up
    known = site.layer.name in statistics.fisher
    order = tuple(range(len(best) + 1))[::-1]
    errors, losses = (0.0, *(entry[1] for entry in best)), (0.0, *(entry[2] for entry in best))
    return Ladder(site, tuple(entry[3] for entry in reversed(best)), Path(order, errors, losses if known else ()))


def _entries(graph: ChannelGraph, site: Site, statistics: Statistics) -> list[Entry]:
    """Every form that costs less than the layer, with its error and what the error adds to the loss."""
    layer, moments = site.layer, statistics.layers[site.layer.name].all
    weight = grouped(graph.program.tensors[layer.weight], layer.groups)
    metric = metric_of(moments, bool(layer.bias or layer.mean))
    factors = statistics.fisher.get(layer.name)
    identity = torch.eye(site.shape.outputs, dtype=torch.float64)
    through = None if factors is None else torch.stack([weighed(identity, factor) for factor in factors])
    found = []
    for method in site.methods:
        forms = [Form(method, rank) for rank in range(1, method.full(site.shape))]
        costs = {form: cost for form in forms if (cost := _cost(site, form)) is not None}
        most = max((form.rank for form in costs), default=0)
        errors = method.errors(weight, metric, most, through).view(most, -1).tolist() if most else []
        for form, cost in costs.items():
            error, loss = errors[form.rank - 1][0], errors[form.rank - 1][-1]
            found.append((cost, error / (moments.energy or 1.0), loss / (2 * max(1, moments.count)), form))
    return found


def _cost(site: Site, form: Form) -> int | None:
    """Multiplications of a form for a sample; None where it saves none, or no parameters."""
    shape, layer, macs = site.shape, site.layer, site.cost(form)
    stages = form.method.stages(shape, form.rank)
    cheaper = macs < layer.shape.numel() * layer.positions and params_of(shape, stages) < layer.shape.numel()
    return macs if cheaper else None


def largest(site: Site, method: Method) -> int:
    """The largest rank at which a method makes a layer cheaper; 0 where none does."""
    ranks = range(1, method.full(site.shape))
    return bisect_left(ranks, True, key=lambda rank: _cost(site, Form(method, rank)) is None)


Parts = Sequence[tuple[str, list[Product]]]


def with_ranks(
    parts: Parts, changes: Mapping[str, Callable[[Sequence[Product], Sizes], list[Product]]], sizes: Sizes
) -> list[tuple[str, list[Product]]]:
    """What each layer or tensor costs, where it may be factorised with what that makes of it."""
    return [(name, changes[name](some, sizes) if name in changes else some) for name, some in parts]
