"""The allocation problem as an integer program for HiGHS (scipy's ``milp``): an independent solver to compare with."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from workbench.allocate import Problem, Term


@dataclass(frozen=True)
class HighsAnswer:
    """``value`` is the least total degradation found, None without a plan; ``proven``: HiGHS says it is the least."""

    value: float | None
    proven: bool
    impossible: bool


def solve_with_highs(problem: Problem, seconds: float) -> HighsAnswer:
    """Minimise the total degradation.

    A binary for every option; for every term over several choices a variable in [0, 1] for every combination, whose
    margins are the binaries (the local polytope: exact, since the binaries are).
    """
    program = _Program(problem)
    result = milp(
        program.objective,
        constraints=program.constraints(),
        integrality=program.integrality,
        bounds=Bounds(0, 1),
        options={"time_limit": seconds, "mip_rel_gap": 0.0},
    )
    value = None if result.x is None else float(program.objective @ result.x)
    return HighsAnswer(value, proven=result.status == 0, impossible=result.status == 2)


class _Program:
    def __init__(self, problem: Problem):
        self.problem = problem
        sizes = [len(choice.options) for choice in problem.choices]
        self.first = np.cumsum([0, *sizes])
        self.columns = int(self.first[-1])
        self.joint: dict[tuple[int, ...], np.ndarray] = {}
        for term in (term for resource in problem.resources for term in resource.terms):
            self._columns_of(term)
        self.objective = np.zeros(self.columns)
        self.objective[: self.first[-1]] = np.concatenate([choice.degradation for choice in problem.choices])
        self.integrality = (np.arange(self.columns) < self.first[-1]).astype(int)

    def _columns_of(self, term: Term) -> np.ndarray:
        """The columns of every combination of the term's choices, as an array of the shape of its costs."""
        if len(term.choices) == 1:
            return self.first[term.choices[0]] + np.arange(term.costs.size)
        if term.choices not in self.joint:
            self.joint[term.choices] = self.columns + np.arange(term.costs.size).reshape(term.costs.shape)
            self.columns += term.costs.size
        return self.joint[term.choices]

    def constraints(self) -> list[LinearConstraint]:
        one = [(range(low, high), None, 1.0) for low, high in itertools.pairwise(self.first)]
        margins = [
            (np.take(columns, option, axis).ravel(), self.first[choice] + option, 0.0)
            for choices, columns in self.joint.items()
            for axis, choice in enumerate(choices)
            for option in range(columns.shape[axis])
        ]
        rows, cols, values, right = [], [], [], []
        for row, (plus, minus, equals) in enumerate([*one, *margins]):
            entries = [(column, 1.0) for column in plus] + ([] if minus is None else [(minus, -1.0)])
            rows += [row] * len(entries)
            cols += [column for column, _ in entries]
            values += [value for _, value in entries]
            right.append(equals)
        structure = coo_array((values, (rows, cols)), shape=(len(right), self.columns)).tocsr()
        budgets = np.zeros((len(self.problem.resources), self.columns))
        limits = []
        for row, resource in zip(budgets, self.problem.resources, strict=True):
            for term in resource.terms:
                np.add.at(row, self._columns_of(term).ravel(), term.costs.ravel())
            scale = row.max() or 1.0  # HiGHS's tolerances are absolute
            row /= scale
            limits.append((resource.budget - resource.constant) / scale)
        return [LinearConstraint(structure, right, right), LinearConstraint(budgets, -np.inf, limits)]
