"""Plans: which units of each channel group stay. A plan is data; ``apply`` does what it says and decides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from workbench import drawing
from workbench.allocate import Allocation, Exact, Solver, Unreachable
from workbench.allocate.budget import Budget
from workbench.cost.latency import LatencyTable
from workbench.cost.layer_latency import rank_axis
from workbench.cost.measure import compare_latency
from workbench.factorize import factorize_
from workbench.factorize.ladder import LADDER
from workbench.graph.record import Factored
from workbench.graph.trace import ChannelGraph
from workbench.graph.winnow import record_of, smaller
from workbench.limits import Limits
from workbench.sensitivity import SensitivityCurves
from workbench.widths import forms_of, kept_of, settle, width_problem

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

FORMAT = 1
TRIES = 4  # at a plan whose model is as fast as it was told to be
LOWER = 0.99  # than what a model that is too slow asks for
ROUNDS = 8  # in which it is timed


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
    ``costs`` are the predicted costs, in the resources of the budget; ``limits`` were demanded besides. ``ranks`` are
    those of the layers that become products of smaller ones, by the layer's name.
    """

    kept: Mapping[str, tuple[int, ...]]
    units: Mapping[str, int]
    budget: Budget
    degradation: float
    gap: float | None
    model: str
    lost: float | None = None
    costs: Mapping[str, float] = field(default_factory=dict)
    limits: Limits = Limits()
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

    @property
    def widths(self) -> dict[str, int]:
        """The units of the groups that lose some and the ranks of layers, as a table of latencies takes them."""
        ranks = {rank_axis(layer, rank.method): rank.rank for layer, rank in self.ranks.items()}
        return {name: len(units) for name, units in self.cut.items()} | ranks

    @property
    def factors(self) -> list[Factored]:
        """The layers that become products of smaller ones, as ``factorize_`` takes them."""
        return [Factored(layer, rank.method, rank.rank) for layer, rank in self.ranks.items()]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        kept = {name: list(units) for name, units in self.kept.items()}
        return asdict(self) | {"budget": self.budget.to_dict(), "limits": self.limits.to_dict(), "kept": kept}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """The plan that ``to_dict`` wrote."""
        kept = {name: tuple(units) for name, units in data["kept"].items()}
        ranks = {layer: Rank(**rank) for layer, rank in data.get("ranks", {}).items()}
        limits = Limits.from_dict(data.get("limits", {}))
        return cls(**{**data, "kept": kept, "budget": Budget(**data["budget"]), "limits": limits, "ranks": ranks})

    def to_frame(self) -> pd.DataFrame:
        """One row a group: units before and after."""
        import pandas as pd

        rows = [{"group": k, "units": self.units[k], "kept": len(v), "share": len(v) / self.units[k]}
                for k, v in self.kept.items()]  # fmt: skip
        return pd.DataFrame(rows)

    def plot(self, ax: Axes | None = None) -> Axes:
        """The units of every group, before and after, in the order of the network. Returns the axes."""
        ax = drawing.axes(ax, 8, drawing.tall(len(self.kept)))
        kept = [len(units) for units in self.kept.values()]
        drawing.before_and_after(ax, list(self.kept), [self.units[name] for name in self.kept], kept)
        ax.set_xlabel("units of the channel group")
        return ax

    def _repr_html_(self) -> str:
        from workbench.report import notebook

        return notebook.plan(self.to_dict())


def make_plan(
    graph: ChannelGraph, curves: SensitivityCurves, budget: Budget, solver: Solver | None = None,
    limits: Limits = Limits(), latency: LatencyTable | None = None,
) -> Plan:  # fmt: skip
    """Choose the width of every group so that budget and limits hold and the curves' total loss is least.

    Raises
    ------
    ValueError
        The model has no channel group, the limits fit none, or a budget of milliseconds comes without a table.
    Refused
        A budgeted cost cannot be told from the widths.
    Unreachable
        No widths within the measured range meet the budget; the message names the smallest reachable cost.
    """
    if not graph.exact and not any(curve.ladder for curve in curves):
        approximate = f"; {len(graph.groups)} could only approximately" if graph.groups else ""
        raise ValueError(
            f"{type(graph.model).__name__} has no channel group that can shrink{approximate}; graph.frozen and "
            "graph.groups say what is in the way"
        )
    if not curves.curves:
        raise ValueError(
            f"methods= and ignore= leave nothing of {type(graph.model).__name__} to choose; allow a group or a layer"
        )
    allocation = settle(graph, curves, width_problem(graph, curves, budget, limits, latency), solver or Exact())
    return plan_of(graph, curves, budget, allocation, limits)


def plan_in_time(
    graph: ChannelGraph, curves: SensitivityCurves, budget: Budget, solver: Solver | None, limits: Limits,
    latency: LatencyTable,
) -> Plan:  # fmt: skip
    """The plan of ``make_plan`` whose model, timed beside the original, keeps a budget of milliseconds.

    A table's predictions are some percent off. Where the model takes longer than it may, the budget is lowered by as
    much and the plan made anew, at most ``TRIES`` times, or as far as there are widths.

    Raises
    ------
    ValueError, Refused, Unreachable
        As :func:`make_plan`.
    """
    asked = min(1.0, budget.limit("latency_ms", latency.at({})) / latency.at({}))
    plan: Plan | None = None
    for _ in range(TRIES):
        try:
            plan = make_plan(graph, curves, replace(budget, latency_ms=asked), solver, limits, latency)
        except Unreachable:
            if plan is None:
                raise
            break  # the fastest so far is all there is
        small = factorize_(smaller(graph, graph.model, record_of(graph, plan.kept)), plan.factors, blank=True)
        found = compare_latency(latency, graph, small, plan.widths, rounds=ROUNDS)
        over = found.after.median / budget.limit("latency_ms", found.before.median)
        if over <= 1:
            break
        asked *= LOWER / over
    assert plan is not None  # there is one, or it was raised why not
    return replace(plan, budget=budget)


def plan_of(
    graph: ChannelGraph, curves: SensitivityCurves, budget: Budget, allocation: Allocation, limits: Limits = Limits()
) -> Plan:
    """The plan in which each group keeps as many units as the allocation gives it, those that leave last."""
    units = {curve.group: curve.units for curve in curves if curve.ladder is None}
    forms = forms_of(curves, allocation)
    ranks = {layer: Rank(form.method.name, form.rank, place) for layer, (form, place) in forms.items()}
    return Plan(
        kept_of(curves, allocation), units, budget, allocation.degradation, allocation.gap, graph.fingerprint,
        costs=allocation.costs, limits=limits, ranks=ranks,
    )  # fmt: skip
