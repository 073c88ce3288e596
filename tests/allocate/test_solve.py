"""Every solver against every plan: the same best value, the same Unreachable, honest bounds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings

from benchmarks.allocation_problems import NETWORKS, make
from benchmarks.highs import solve_with_highs
from benchmarks.traced_problems import make_traced
from tests.allocate.cases import brute_force, picked, problems
from workbench.allocate import (
    Cheapest,
    Exact,
    Greedy,
    LeastWorst,
    Problem,
    Solver,
    Twin,
    Uniform,
    Unreachable,
    front,
    solve,
)
from workbench.allocate.allocation import Allocation, objective_value, within_budgets

MANY = settings(max_examples=2_000, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def check_exact(problem: Problem, solver: Solver) -> Allocation | None:
    truth = brute_force(problem)
    try:
        found = solve(problem, solver)
    except Unreachable:
        assert truth is None
        return None
    assert truth is not None
    plan = picked(problem, found.options)
    assert within_budgets(problem, plan)
    assert objective_value(problem, plan) == pytest.approx(truth.value, rel=1e-9, abs=1e-12)
    assert found.proven
    assert found.gap == pytest.approx(0, abs=1e-9)
    assert found.bound == pytest.approx(truth.value, rel=1e-9, abs=1e-12)
    if isinstance(problem.objective, LeastWorst):
        assert found.degradation == pytest.approx(truth.total, rel=1e-9, abs=1e-12)
    assert found.degradation == problem.degradation(plan)
    assert found.worst == problem.worst(plan)
    assert found.costs == {resource.name: resource.cost(plan) for resource in problem.resources}
    assert isinstance(problem.objective, Cheapest) or not raisable(problem, plan)
    return found


def raisable(problem: Problem, plan: list[int]) -> list[tuple[int, int]]:
    """The larger options that would lose no more and break no budget."""
    found = []
    for number, choice in enumerate(problem.choices):
        for option in range(plan[number] + 1, len(choice.options)):
            trial = [*plan[:number], option, *plan[number + 1 :]]
            if choice.degradation[option] <= choice.degradation[plan[number]] and within_budgets(problem, trial):
                found.append((number, option))
    return found


@MANY
@given(problems())
def test_exact_is_best(problem: Problem) -> None:
    check_exact(problem, Exact())


@settings(MANY, max_examples=300)
@given(problems(most_choices=5))
def test_twin_is_best_and_agrees(problem: Problem) -> None:
    twin = check_exact(problem, Twin())
    if twin is not None:
        core = solve(problem)
        assert objective_value(problem, picked(problem, core.options)) == pytest.approx(twin.bound, rel=1e-9, abs=1e-12)


@pytest.mark.slow
@settings(MANY, max_examples=50_000, derandomize=False)
@given(problems())
def test_exact_is_best_50_000_times(problem: Problem) -> None:
    check_exact(problem, Exact())


@pytest.mark.slow
@settings(MANY, max_examples=5_000, derandomize=False)
@given(problems(most_choices=5))
def test_twin_is_best_5_000_times(problem: Problem) -> None:
    check_exact(problem, Twin())


@settings(MANY, max_examples=150)
@given(problems())
@pytest.mark.parametrize("solver", [Greedy(), Uniform()], ids=["greedy", "uniform"])
def test_baselines_keep_the_budgets_and_are_never_better(solver: Solver, problem: Problem) -> None:
    try:
        found = solve(problem, solver)
    except Unreachable:
        return
    truth = brute_force(problem)
    plan = picked(problem, found.options)
    assert within_budgets(problem, plan)
    assert truth is not None
    assert objective_value(problem, plan) >= truth.value * (1 - 1e-12)
    assert (found.bound, found.gap, found.proven) == (None, None, False)


@settings(MANY, max_examples=100)
@given(problems(most_resources=2))
def test_front_agrees_with_one_budget_at_a_time(problem: Problem) -> None:
    if not problem.resources:
        return
    resource = problem.resources[-1]
    most = resource.constant + sum(float(term.costs.max()) for term in resource.terms)
    budgets = [most, (most + resource.budget) / 2, most * 0.9]
    ones = []
    for budget in budgets:
        changed = tuple(replace(r, budget=budget) if r is resource else r for r in problem.resources)
        truth = brute_force(replace(problem, resources=changed))
        ones.append(truth)
    if None in ones:
        with pytest.raises(Unreachable):
            front(problem, resource.name, budgets)
        return
    for allocation, budget, truth in zip(front(problem, resource.name, budgets), budgets, ones, strict=True):
        assert truth is not None
        assert objective_value(problem, picked(problem, allocation.options)) == pytest.approx(truth.value, abs=1e-12)
        assert allocation.costs[resource.name] <= budget * (1 + 1e-12)


COUPLED = [name for name in NETWORKS if name not in ("uncoupled", "densenet121", "resnet152")]


@pytest.mark.parametrize("name", COUPLED)
@pytest.mark.parametrize("resources", [1, 2])
def test_exact_agrees_with_highs(name: str, resources: int) -> None:
    problem = make(name, options=3, seed=resources, share=0.4, resources=resources)
    found, theirs = solve(problem), solve_with_highs(problem, seconds=60)
    assert theirs.proven, "HiGHS proved no optimum in 60 s: give it a smaller problem"
    assert found.proven
    assert found.degradation == pytest.approx(theirs.value, rel=1e-6)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_every_network_is_proven(name: str) -> None:
    problem = make(name, options=16, seed=3, share=0.5)
    found = solve(problem)
    assert found.proven
    for solver in (Greedy(), Uniform()):
        assert solve(problem, solver).degradation >= found.degradation


def test_a_traced_network_is_proven_and_agrees_with_highs() -> None:
    problem = make_traced("mobilenet_v3_small", options=3, side=32)
    found, theirs = solve(problem), solve_with_highs(problem, seconds=60)
    assert found.proven
    assert theirs.proven
    assert found.degradation == pytest.approx(theirs.value, rel=1e-6)
    assert make_traced("mobilenet_v3_small", options=16, side=32).choices[-1].options[-1] == 1024
    assert solve(make_traced("mobilenet_v3_small", options=16, side=32)).proven


def test_cheapest_at_a_plans_own_degradation_costs_no_more_than_it() -> None:
    problem = make("resnet50", options=8)
    plan = solve(problem)
    cheapest = solve(replace(problem, objective=Cheapest("macs", plan.degradation)))
    assert cheapest.proven
    assert cheapest.costs["macs"] <= plan.costs["macs"]


def test_least_worst_has_the_least_worst() -> None:
    problem = make("chain", options=8)
    least = solve(replace(problem, objective=LeastWorst()))
    assert least.proven
    assert least.worst <= solve(problem).worst
    assert least.degradation >= solve(problem).degradation
