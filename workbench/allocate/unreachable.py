"""Why no plan meets the budgets, said so that the reader knows what to change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from workbench.allocate.pieces import Resource
from workbench.allocate.problem import Cheapest, LeastTotal, Problem

NAMED_LAYERS = 3


class Unreachable(ValueError):
    """No plan meets the budgets. The message says how low the cost can go, and which layers hold it there."""


def explain(problem: Problem, best: Callable[[Problem], Sequence[int] | None]) -> str:
    """One sentence on the first budget that cannot be met, alone or together with the others.

    ``best`` finds the option numbers of a problem's best plan, or None.
    """
    loosest = sum(max(choice.degradation) for choice in problem.choices)
    for resource in problem.resources:
        alone = replace(problem, resources=(_freed(resource),), objective=Cheapest(resource.name, loosest))
        picked = best(alone)
        if picked is not None and resource.cost(picked) > resource.limit:
            return (
                f"the budget of {resource.budget:g} {resource.name} is out of reach: the smallest reachable cost is "
                f"{_reached(problem, resource, picked)}, held there by {holders(resource, picked)}; "
                "raise the budget or offer smaller options"
            )
    if isinstance(problem.objective, Cheapest):
        picked = best(replace(problem, objective=LeastTotal()))
        if picked is not None:
            return (
                f"the total degradation of at most {problem.objective.total_degradation_at_most:g} is out of reach: "
                f"within the budgets the least is {problem.degradation(picked):g}; allow more or raise a budget"
            )
    return _together(problem, loosest, best)


def _together(problem: Problem, loosest: float, best: Callable[[Problem], Sequence[int] | None]) -> str:
    names = [resource.name for resource in problem.resources]
    for resource in problem.resources:
        others = tuple(_freed(other) if other is resource else other for other in problem.resources)
        picked = best(replace(problem, resources=others, objective=Cheapest(resource.name, loosest)))
        if picked is not None:
            return (
                f"the budgets of {' and '.join(names)} cannot be met together: with the others kept the smallest "
                f"reachable cost in {resource.name} is {_reached(problem, resource, picked)}, where "
                f"{resource.budget:g} is allowed, held there by {holders(resource, picked)}; raise one of the budgets"
            )
    return f"the budgets of {' and '.join(names)} cannot be met together, whichever one is given up; raise several"


def _reached(problem: Problem, resource: Resource, picked: Sequence[int]) -> str:
    """The cost of a plan, and what share of the untouched model's it is."""
    cost, untouched = resource.cost(picked), resource.cost([len(choice.options) - 1 for choice in problem.choices])
    return f"{cost:g} ({cost / untouched:.3f} of the original)" if untouched else f"{cost:g}"


def _freed(resource: Resource) -> Resource:
    return replace(resource, budget=resource.constant + sum(float(term.costs.max()) for term in resource.terms))


def holders(resource: Resource, picked: Sequence[int]) -> str:
    """The layers that cost most under the plan ``picked`` (option numbers), with what they cost."""
    costs: dict[str, float] = {}
    for term in resource.terms:
        cost = term.costs[tuple(picked[choice] for choice in term.choices)].item()
        costs[term.layer] = costs.get(term.layer, 0) + cost
    if resource.constant:
        costs["what no choice changes"] = resource.constant
    most = sorted(costs.items(), key=lambda item: -item[1])[:NAMED_LAYERS]
    return ", ".join(f"{layer} ({cost:g})" for layer, cost in most)
