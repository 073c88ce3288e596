"""The exact solver once more in plain Python, for small problems: to be read, and to be compared with ``_core``.

The same three ideas. (1) *Elimination*: with every price fixed, the least priced cost is found by minimising one choice
after the other out of the sum of all tables. What is remembered on the way tells, for any partial plan made in the
opposite order, the least that its completion can cost. (2) *Prices*: no plan within the budgets can beat the least
priced cost, so any prices give a bound, and good ones a close bound. (3) *Enumeration*: partial plans that cannot stay
below a target are dropped, as are those that another beats in every respect that still matters; the target rises until
a plan lies below it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from workbench.allocate.allocation import Allocation, degradation_limit, objective_value, within_budgets
from workbench.allocate.edit import take_options
from workbench.allocate.pieces import ROUNDING
from workbench.allocate.problem import Cheapest, LeastTotal, LeastWorst, Problem
from workbench.allocate.raised import raised
from workbench.allocate.unreachable import Unreachable, explain

Table = tuple[tuple[int, ...], dict[tuple[int, ...], float]]  # choices, and a value for each way to set them
Partial = tuple[tuple[float, ...], dict[int, int]]  # how far above each gauge's minimum, and the options so far
STEPS = 60  # of the search for prices


@dataclass(frozen=True)
class Twin:
    """Exact, slow, and short enough to be read in one sitting; plans as good as :class:`Exact`'s.

    Examples
    --------
    >>> from workbench.allocate import Choice, Resource, Term, solve
    >>> widths = Choice("conv1", (8, 16, 32), (0.4, 0.1, 0.0))
    >>> macs = Resource("macs", (Term.product("conv1", (0,), (widths.options,), 9),), constant=0, budget=200)
    >>> solve(Problem((widths,), (macs,)), Twin()).options
    {'conv1': 16}
    """

    def solve(self, problem: Problem) -> Allocation:
        """The best plan; see :func:`workbench.allocate.solve`."""
        picked = best_plan(problem)
        if picked is None:
            raise Unreachable(explain(problem, best_plan))
        return Allocation.of(problem, raised(problem, picked), objective_value(problem, picked))


def best_plan(problem: Problem) -> list[int] | None:
    """The option numbers of a best plan, or None where none is within the budgets."""
    if isinstance(problem.objective, LeastWorst):
        return _least_worst(problem)
    model = _Model(problem)
    priced, bound = model.prices()
    if bound is None:
        return None
    most = sum(max(table.values()) for _, table in model.sums[0])
    window = 1e-3 * most + ROUNDING
    while True:
        picked = model.cheapest_below(priced, bound, bound + window)
        if picked is not None or bound + window > most * (1 + ROUNDING):
            return picked
        window *= 4


def _least_worst(problem: Problem) -> list[int] | None:
    for ceiling in sorted({d for choice in problem.choices for d in choice.degradation}):
        kept = {i: [p for p, d in enumerate(c.degradation) if d <= ceiling] for i, c in enumerate(problem.choices)}
        if all(kept.values()):
            picked = best_plan(replace(take_options(problem, kept), objective=LeastTotal()))
            if picked is not None:
                return [kept[i][option] for i, option in enumerate(picked)]
    return None


class _Model:
    """The problem as sums of tables: first what is minimised, then what is limited."""

    def __init__(self, problem: Problem):
        self.problem = problem
        self.sizes = [len(choice.options) for choice in problem.choices]
        lost = [_table((i,), c.degradation.__getitem__, self.sizes) for i, c in enumerate(problem.choices)]
        spent = {
            r.name: [_table(t.choices, lambda *at, t=t: t.costs[at].item(), self.sizes) for t in r.terms]
            for r in problem.resources
        }
        wanted = problem.objective
        self.sums = [spent[wanted.resource] if isinstance(wanted, Cheapest) else lost, *spent.values()]
        self.limits = [r.limit - r.constant for r in problem.resources]
        if isinstance(wanted, Cheapest):
            self.sums.append(lost)
            self.limits.append(degradation_limit(wanted))
        self.order = self._order()

    def _order(self) -> list[int]:
        """Choices by when they go: the one with the fewest neighbours left first."""
        scopes = [set(scope) for tables in self.sums for scope, _ in tables]
        left, order = set(range(len(self.sizes))), []
        while left:
            around = {i: set().union(*(s for s in scopes if i in s)) - {i} for i in left}
            chosen = min(left, key=lambda i: (len(around[i]), i))
            scopes = [s for s in scopes if chosen not in s] + [around[chosen]]
            left.remove(chosen)
            order.append(chosen)
        return order

    def eliminate(self, weights: Sequence[float]) -> Elimination:
        """Minimise the weighted sum of all sums, one choice after the other."""
        tables = [
            (scope, {at: weight * value for at, value in table.items()})
            for weight, sums in zip(weights, self.sums, strict=True)
            if weight
            for scope, table in sums
        ]
        minimum, buckets = 0.0, {}
        for choice in self.order:
            mine = [table for table in tables if choice in table[0]]
            tables = [table for table in tables if choice not in table[0]]
            seen = sorted({other for scope, _ in mine for other in scope} - {choice})
            message: dict[tuple[int, ...], float] = {}
            for at in itertools.product(*(range(self.sizes[other]) for other in seen)):
                plan = dict(zip(seen, at, strict=True))
                message[at] = min(_sum(mine, plan | {choice: o}) for o in range(self.sizes[choice]))
            if seen:
                tables.append((tuple(seen), message))
            else:
                minimum += message[()]
            buckets[choice] = (mine, (tuple(seen), message))
        return Elimination(minimum, buckets)

    def prices(self) -> tuple[list[Elimination], float | None]:
        """Gauges for partial plans: the best-priced sum, then each sum by itself; and the bound.

        Subgradient ascent: a sum above its limit gets dearer. The bound is None where a limit cannot be kept.
        """
        count = len(self.sums)
        alone = [self.eliminate([float(k == own) for k in range(count)]) for own in range(count)]
        if any(e.minimum > limit + ROUNDING * abs(limit) for e, limit in zip(alone[1:], self.limits, strict=True)):
            return [], None
        scale = [sum(max(table.values()) for _, table in tables) or 1.0 for tables in self.sums]
        prices = [0.0] * len(self.limits)
        found = []
        for step in range(1, STEPS + 1):
            elimination = self.eliminate([1.0, *prices])
            bound = elimination.minimum - sum(p * limit for p, limit in zip(prices, self.limits, strict=True))
            found.append((bound, elimination))
            plan = elimination.plan(self.order)
            for k, limit in enumerate(self.limits):
                over = (_sum(self.sums[k + 1], plan) - limit) / scale[k + 1]
                prices[k] = max(0.0, prices[k] + over / step * scale[0] / scale[k + 1])
        bound, best = max(found, key=lambda entry: entry[0])
        return [best, *alone], bound

    def cheapest_below(self, gauges: list[Elimination], bound: float, target: float) -> list[int] | None:
        """The best plan that keeps all limits, if its objective is at most ``target``."""
        most = [target, *self.limits]
        room = [target - bound, *(limit - gauge.minimum for limit, gauge in zip(most, gauges[1:], strict=True))]
        room = [r + ROUNDING * (1 + abs(r)) for r in room]
        partial: list[Partial] = [((0.0,) * len(gauges), {})]
        for choice, seen in self._visits():
            extended = []
            for above, plan in partial:
                for option in range(self.sizes[choice]):
                    longer = plan | {choice: option}
                    now = tuple(a + gauge.excess(choice, longer) for a, gauge in zip(above, gauges, strict=True))
                    if all(a <= r for a, r in zip(now, room, strict=True)):
                        extended.append((now, longer))
            partial = _undominated(extended, seen)
        plans = [[plan[i] for i in range(len(self.sizes))] for _, plan in partial]
        inside = [plan for plan in plans if within_budgets(self.problem, plan) and self._value(plan) <= target]
        return min(inside, key=self._value, default=None)

    def _value(self, picked: list[int]) -> float:
        return _sum(self.sums[0], dict(enumerate(picked)))

    def _visits(self) -> Iterator[tuple[int, list[int]]]:
        """The choices in the opposite order, each with the choices that tables of later ones look at."""
        scopes = [scope for tables in self.sums for scope, _ in tables]
        for place in reversed(range(len(self.order))):
            later = set(self.order[:place])
            yield (
                self.order[place],
                sorted({i for scope in scopes if later & set(scope) for i in scope} & set(self.order[place:])),
            )


@dataclass(frozen=True)
class Elimination:
    """The least weighted sum; and by choice what its elimination minimised, and what that left."""

    minimum: float
    buckets: dict[int, tuple[list[Table], Table]]

    def excess(self, choice: int, plan: dict[int, int]) -> float:
        """How much more than its best option the plan's option costs, given the choices set before it."""
        tables, message = self.buckets[choice]
        return _sum(tables, plan) - _sum([message], plan)

    def plan(self, order: list[int]) -> dict[int, int]:
        """A plan that has the least weighted sum."""
        plan: dict[int, int] = {}
        for choice in reversed(order):
            tables, _ = self.buckets[choice]
            options = {at[scope.index(choice)] for scope, table in tables for at in table} or {0}
            plan[choice] = min(sorted(options), key=lambda o: _sum(tables, plan | {choice: o}))
        return plan


def _undominated(partial: list[Partial], seen: list[int]) -> list[Partial]:
    """Of partial plans that look the same to later choices, those that no other beats in every sum."""
    groups: dict[tuple[int, ...], list[Partial]] = {}
    for above, plan in sorted(partial, key=lambda entry: entry[0][1:]):
        group = groups.setdefault(tuple(plan[i] for i in seen), [])
        if not any(all(x <= y for x, y in zip(other[1:], above[1:], strict=True)) for other, _ in group):
            group.append((above, plan))
    return [entry for group in groups.values() for entry in group]


def _table(scope: tuple[int, ...], value: Callable[..., float], sizes: Sequence[int]) -> Table:
    return scope, {at: value(*at) for at in itertools.product(*(range(sizes[choice]) for choice in scope))}


def _sum(tables: Sequence[Table], plan: dict[int, int]) -> float:
    total = 0.0
    for scope, table in tables:
        total += table[tuple(plan[choice] for choice in scope)]
    return total
