"""Random small problems, and their true answers by looking at every plan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from workbench.allocate import Cheapest, Choice, LeastTotal, LeastWorst, Problem, Resource, Term
from workbench.allocate.allocation import degradation_limit


@st.composite
def problems(draw: st.DrawFn, most_choices: int = 6, most_resources: int = 3) -> Problem:
    """Up to six choices of four options, three resources of eight terms over one to three choices, any objective.

    Hypothesis draws the structure; the numbers come from a seed: ties, zeros, and curves that are not monotone.
    """
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=most_choices))
    coarse, fractional, most_arity = draw(st.booleans()), draw(st.booleans()), draw(st.integers(1, 3))
    choices = []
    for number, size in enumerate(sizes):
        losses = (
            random.integers(0, 4, size).astype(float) if coarse else random.random(size) * random.choice([0.1, 1, 10])
        )
        options = np.cumsum(random.integers(1, 4, size)).tolist()
        choices.append(Choice(f"choice{number}", tuple(options), tuple(losses.tolist())))
    resources = []
    for number in range(draw(st.integers(0, most_resources))):
        terms = []
        for scope in draw(st.lists(st.permutations(range(len(sizes))), max_size=8)):
            arity = min(len(scope), int(random.integers(1, most_arity + 1)))
            shape = [sizes[choice] for choice in scope[:arity]]
            costs = random.random(shape) * 5 if fractional else random.integers(0, 20, shape)
            terms.append(Term(f"layer{len(terms)}", tuple(scope[:arity]), costs))
        constant = int(random.integers(0, 5))
        least, most = (constant + sum(float(f(t.costs)) for t in terms) for f in (np.min, np.max))
        share = draw(st.integers(0, 16)) / 16
        resources.append(Resource(f"resource{number}", tuple(terms), constant, least + share * (most - least)))
    kinds = [LeastTotal(), LeastWorst()]
    if resources:
        whole = sum(max(choice.degradation) for choice in choices)
        kinds.append(Cheapest("resource0", draw(st.integers(0, 16)) / 16 * whole))
    return Problem(tuple(choices), tuple(resources), draw(st.sampled_from(kinds)))


@dataclass(frozen=True)
class Truth:
    """The least value of the objective, and the least total degradation among the plans that have it."""

    value: float
    total: float


def brute_force(problem: Problem) -> Truth | None:
    """The true answer, or None where no plan keeps the budgets. Sums run in the order in which the terms stand."""
    shape = [len(choice.options) for choice in problem.choices]

    def spread(axes: tuple[int, ...], table: np.ndarray) -> np.ndarray:
        order = np.argsort(axes)
        full = [shape[axis] if axis in axes else 1 for axis in range(len(shape))]
        return np.transpose(table, order).reshape(full)

    losses = [spread((i,), np.array(choice.degradation)) for i, choice in enumerate(problem.choices)]
    total, worst = np.zeros(shape), np.zeros(shape)
    for loss in losses:
        total, worst = total + loss, np.maximum(worst, loss)
    costs = {}
    for resource in problem.resources:
        costs[resource.name] = np.full(shape, resource.constant, dtype=float)
        for term in resource.terms:
            costs[resource.name] = costs[resource.name] + spread(term.choices, term.costs)
    kept = np.ones(shape, dtype=bool)
    for resource in problem.resources:
        kept &= costs[resource.name] <= resource.limit
    match problem.objective:
        case Cheapest() as wanted:
            kept &= total <= degradation_limit(wanted)
            value = costs[wanted.resource]
        case LeastWorst():
            value = worst
        case LeastTotal():
            value = total
    if not kept.any():
        return None
    least = value[kept].min()
    return Truth(float(least), float(total[kept & (value == least)].min()))


def picked(problem: Problem, options: dict[str, int]) -> list[int]:
    """The option numbers of a plan given by option values."""
    return [choice.options.index(options[choice.name]) for choice in problem.choices]
