"""Plans: which units of each channel group stay. A plan is data; ``apply`` does what it says and decides nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.allocate import Choice, Exact, Problem, Resource, Solver, Term, solve
from workbench.allocate.budget import Budget
from workbench.allocate.rounding import multiples
from workbench.cost.sizes import Product, products, sizes_of
from workbench.cost.work import work_products
from workbench.graph.trace import ChannelGraph
from workbench.sensitivity import SensitivityCurves

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1


@dataclass(frozen=True)
class Plan:
    """The units that stay in each group, what was asked for, and what is expected.

    ``degradation`` is the sum of the curves' losses at these widths; ``gap`` says how far from the best plan this one
    can be at most (0: it is the best), None where the solver proves nothing. ``model`` is the model's fingerprint.
    ``lost`` is what the repaired model that it makes really lost of the search's score, where that was looked at.
    """

    kept: Mapping[str, tuple[int, ...]]
    units: Mapping[str, int]
    budget: Budget
    degradation: float
    gap: float | None
    model: str
    lost: float | None = None
    format: int = FORMAT

    def __repr__(self) -> str:
        cut = sum(len(units) < self.units[name] for name, units in self.kept.items())
        real = "" if self.lost is None else f", real loss {self.lost:.4g}"
        return f"Plan({self.budget}: {cut} of {len(self.kept)} groups cut, predicted loss {self.degradation:.4g}{real})"

    @property
    def cut(self) -> dict[str, tuple[int, ...]]:
        """The groups that lose units, with the units that stay."""
        return {name: units for name, units in self.kept.items() if len(units) < self.units[name]}

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"budget": self.budget.to_dict(), "kept": {k: list(v) for k, v in self.kept.items()}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """The plan that ``to_dict`` wrote."""
        kept = {name: tuple(units) for name, units in data["kept"].items()}
        return cls(**{**data, "kept": kept, "budget": Budget(**data["budget"])})

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
    if not graph.exact:
        approximate = f"; {len(graph.groups)} could only approximately" if graph.groups else ""
        raise ValueError(
            f"{type(graph.model).__name__} has no channel group that can shrink{approximate}; graph.frozen and "
            "graph.groups say what is in the way"
        )
    problem = width_problem(graph, curves, budget)
    allocation = solve(problem, solver or Exact())
    kept = {curve.group: curve.path.kept(allocation.options[curve.group]) for curve in curves}
    units = {curve.group: curve.units for curve in curves}
    return Plan(kept, units, budget, allocation.degradation, allocation.gap, graph.fingerprint)


def width_problem(graph: ChannelGraph, curves: SensitivityCurves, budget: Budget) -> Problem:
    """The allocation problem of a model: one choice a group, the widths its curve knows, the budgeted resources."""
    choices = []
    for curve in curves:
        widths = [width for width in multiples(curve.units, budget.multiple) if np.isfinite(curve.at(width))]
        choices.append(Choice(curve.group, tuple(widths), tuple(curve.at(width) for width in widths)))
    cost = graph.cost()
    orders = {curve.group: curve.path.order for curve in curves}
    sizes = sizes_of(graph, orders)
    layers = {
        "macs": work_products(graph, orders),
        "params": [
            (name, products(name, tensor.shape, sizes)) for name, tensor in graph.parameters.items()
        ],
    }  # fmt: skip
    dense = {"macs": cost.macs, "params": cost.params}
    resources = [_resource(name, layers[name], dense[name], share, choices) for name, share in budget.shares.items()]
    return Problem(tuple(choices), tuple(resources))


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
