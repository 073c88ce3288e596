"""From curves and a budget to a plan: solved, and under milliseconds timed until its model is as fast as it may be."""

from __future__ import annotations

from dataclasses import replace

from workbench.allocate import Allocation, Exact, Solver, Unreachable
from workbench.allocate.budget import Budget
from workbench.cost.latency import LatencyTable
from workbench.cost.measure import compare_latency
from workbench.factorize import factorize_
from workbench.graph.trace import ChannelGraph
from workbench.graph.winnow import record_of, smaller
from workbench.limits import Limits
from workbench.plan import Plan, Rank
from workbench.sensitivity import SensitivityCurves
from workbench.widths import forms_of, kept_of, settle, width_problem

TRIES = 4  # at a plan whose model is as fast as it was told to be
LOWER = 0.99  # than what a model that is too slow asks for
ROUNDS = 8  # in which it is timed


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
