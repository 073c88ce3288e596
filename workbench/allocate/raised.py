"""Ties: of plans that lose the same, one that gives up no more than the budgets ask for."""

from __future__ import annotations

from collections.abc import Sequence

from workbench.allocate.allocation import within_budgets
from workbench.allocate.problem import Cheapest, Problem


def raised(problem: Problem, picked: Sequence[int]) -> list[int]:
    """The plan with each choice at its largest option that loses as much and that the budgets still allow.

    Where the least cost is what is asked for, the plan as it was. Plans are option numbers.
    """
    if isinstance(problem.objective, Cheapest):
        return list(picked)
    found = list(picked)
    while any(_raise_(problem, found, number) for number in range(len(found))):  # a list: each of them once a round
        pass
    return found if within_budgets(problem, found) else list(picked)


def _raise_(problem: Problem, found: list[int], number: int) -> bool:
    """Raise one choice; whether that was possible."""
    now, degradation = found[number], problem.choices[number].degradation
    higher = [option for option in range(len(degradation) - 1, now, -1) if degradation[option] == degradation[now]]
    if not higher:
        return False
    touched = [[term for term in resource.terms if number in term.choices] for resource in problem.resources]
    room = [resource.limit - resource.cost(found) for resource in problem.resources]

    def costs() -> list[float]:
        return [sum(term.costs[tuple(found[c] for c in term.choices)].item() for term in terms) for terms in touched]

    before = costs()
    for option in higher:
        found[number] = option
        if all(new - old <= left for new, old, left in zip(costs(), before, room, strict=True)):
            return True
    found[number] = now
    return False
