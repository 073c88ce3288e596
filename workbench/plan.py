"""Plans: which units of each channel group stay. A plan is data; ``apply`` does what it says and decides nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.allocate import Choice, Exact, Problem, Resource, Solver, Term, solve
from workbench.allocate.budget import Budget
from workbench.allocate.rounding import multiples
from workbench.cost.sizes import Product, products, sizes_of
from workbench.cost.work import work_products
from workbench.factorize.ladder import LADDER, Ladder, with_ranks
from workbench.graph.trace import ChannelGraph
from workbench.sensitivity import SensitivityCurves

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
PLACES = 4, 24  # of a layer's ranks, between so many of which the solver chooses from
TABLE = 1 << 21  # entries that a layer's costs may have, by in-width, out-width and rank


@dataclass(frozen=True)
class Rank:
    """A layer's rank by a method (see ``workbench.factorize``), and its place on the layer's curve."""

    method: str
    rank: int
    place: int = 0


@dataclass(frozen=True)
class Plan:
    """The units that stay in each group, what was asked for, and what is expected.

    ``degradation`` is the sum of the curves' losses at these widths; ``gap`` says how far from the best plan this one
    can be at most (0: it is the best), None where the solver proves nothing. ``model`` is the model's fingerprint.
    ``lost`` is what the repaired model that it makes really lost of the search's score, where that was looked at.
    ``ranks`` are those of the layers that become products of smaller ones, by the layer's name.
    """

    kept: Mapping[str, tuple[int, ...]]
    units: Mapping[str, int]
    budget: Budget
    degradation: float
    gap: float | None
    model: str
    lost: float | None = None
    format: int = FORMAT
    ranks: Mapping[str, Rank] = field(default_factory=dict)

    def __repr__(self) -> str:
        cut = sum(len(units) < self.units[name] for name, units in self.kept.items())
        real = "" if self.lost is None else f", real loss {self.lost:.4g}"
        ranks = f", {len(self.ranks)} layers of lower rank" if self.ranks else ""
        return (
            f"Plan({self.budget}: {cut} of {len(self.kept)} groups cut{ranks}, predicted loss "
            f"{self.degradation:.4g}{real})"
        )

    @property
    def cut(self) -> dict[str, tuple[int, ...]]:
        """The groups that lose units, with the units that stay."""
        return {name: units for name, units in self.kept.items() if len(units) < self.units[name]}

    @property
    def places(self) -> tuple[tuple[str, int], ...]:
        """The groups that lose units, with how many stay, and the layers that lose rank, with where on their curve."""
        ranks = ((f"{layer}{LADDER}", rank.place) for layer, rank in self.ranks.items())
        return (*((name, len(units)) for name, units in self.cut.items()), *ranks)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"budget": self.budget.to_dict(), "kept": {k: list(v) for k, v in self.kept.items()}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """The plan that ``to_dict`` wrote."""
        kept = {name: tuple(units) for name, units in data["kept"].items()}
        ranks = {layer: Rank(**rank) for layer, rank in data.get("ranks", {}).items()}
        return cls(**{**data, "kept": kept, "budget": Budget(**data["budget"]), "ranks": ranks})

    def to_frame(self) -> pd.DataFrame:
        """One row a group: units before and after."""
        import pandas as pd

        rows = [{"group": k, "units": self.units[k], "kept": len(v), "share": len(v) / self.units[k]}
                for k, v in self.kept.items()]  # fmt: skip
        return pd.DataFrame(rows)

    def _repr_html_(self) -> str:
        return f"<p>{self!r}</p>{self.to_frame().to_html(index=False, float_format='{:.2f}'.format)}"


def make_plan(graph: ChannelGraph, curves: SensitivityCurves, budget: Budget, solver: Solver | None = None) -> Plan:
    """Choose the width of every group so that the budget holds and the curves' total loss is least.

    Raises
    ------
    ValueError
        The model has no channel group.
    Unreachable
        No widths within the measured range meet the budget; the message names the smallest reachable cost.
    """
    if not graph.exact and not any(curve.ladder for curve in curves):
        approximate = f"; {len(graph.groups)} could only approximately" if graph.groups else ""
        raise ValueError(
            f"{type(graph.model).__name__} has no channel group that can shrink{approximate}; graph.frozen and "
            "graph.groups say what is in the way"
        )
    problem = width_problem(graph, curves, budget)
    allocation = solve(problem, solver or Exact())
    widths = [curve for curve in curves if curve.ladder is None]
    kept = {curve.group: curve.path.kept(allocation.options[curve.group]) for curve in widths}
    units = {curve.group: curve.units for curve in widths}
    ranks = {}
    for ladder in filter(None, (curve.ladder for curve in curves)):
        place = allocation.options[ladder.name]
        form = ladder.form(place)
        if form:
            ranks[ladder.layer] = Rank(form.method.name, form.rank, place)
    return Plan(kept, units, budget, allocation.degradation, allocation.gap, graph.fingerprint, ranks=ranks)


def width_problem(graph: ChannelGraph, curves: SensitivityCurves, budget: Budget) -> Problem:
    """The allocation problem of a model: one choice a group, the widths its curve knows, the budgeted resources.

    A layer that may lose rank is one choice more, whose options are the places of its ladder.
    """
    choices = []
    for curve in curves:
        ladder, multiple = curve.ladder, budget.multiple
        offered = ladder.places(multiple, _places(ladder)) if ladder else multiples(curve.units, multiple)
        widths = [width for width in offered if np.isfinite(curve.at(width))]
        choices.append(Choice(curve.group, tuple(widths), tuple(curve.at(width) for width in widths)))
    cost = graph.cost()
    orders = {curve.group: curve.path.order for curve in curves if curve.ladder is None}
    ladders = [curve.ladder for curve in curves if curve.ladder]
    sizes = sizes_of(graph, orders)
    layers = {
        "macs": with_ranks(work_products(graph, orders), {ladder.layer: ladder.work for ladder in ladders}, sizes),
        "params": with_ranks(
            [(name, products(name, tensor.shape, sizes)) for name, tensor in graph.parameters.items()],
            {ladder.site.layer.weight: ladder.elements for ladder in ladders}, sizes,
        ),
    }  # fmt: skip
    dense = {"macs": cost.macs, "params": cost.params}
    resources = [_resource(name, layers[name], dense[name], share, choices) for name, share in budget.shares.items()]
    return Problem(tuple(choices), tuple(resources))


def _places(ladder: Ladder) -> int:
    """How many ranks of a layer are offered: fewer where its widths already make large tables."""
    least, most = PLACES
    shape = ladder.site.layer.shape
    return max(least, min(most, TABLE // (shape[0] * shape[1])))


def _resource(
    name: str, layers: list[tuple[str, list[Product]]], dense: int, share: float, choices: list[Choice]
) -> Resource:
    """Terms for what depends on widths; what remains of the counted cost is constant."""
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
    return Resource(name, tuple(terms), constant=dense - whole, budget=int(share * dense))


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
