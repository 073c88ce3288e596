"""The allocation problem as data: choices, what they cost, what they lose, and what is asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.allocate.pieces import Choice, Resource, Term, set_fields


@dataclass(frozen=True)
class LeastTotal:
    """Minimise the sum of the degradations."""


@dataclass(frozen=True)
class LeastWorst:
    """Minimise the largest degradation; among those plans, the sum."""


@dataclass(frozen=True)
class Cheapest:
    """Minimise the cost of one resource while the sum of the degradations is at most a limit."""

    resource: str
    total_degradation_at_most: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.total_degradation_at_most) and self.total_degradation_at_most >= 0):
            raise ValueError(
                f"the total degradation may be at most {self.total_degradation_at_most}; give a finite number >= 0"
            )


Objective = LeastTotal | LeastWorst | Cheapest
OBJECTIVES: dict[str, type[Objective]] = {kind.__name__: kind for kind in (LeastTotal, LeastWorst, Cheapest)}


@dataclass(frozen=True)
class Problem:
    """Which option does each choice get, so that all budgets hold and the objective is least?

    Raises
    ------
    ValueError
        A name is used twice, a term does not fit the choices, or the objective names no resource.

    Examples
    --------
    >>> widths = Choice("conv1", (8, 16, 32), (0.4, 0.1, 0.0))
    >>> macs = Resource("macs", (Term.product("conv1", (0,), (widths.options,), 9),), constant=0, budget=200)
    >>> Problem((widths,), (macs,)) == Problem.from_dict(Problem((widths,), (macs,)).to_dict())
    True
    """

    choices: tuple[Choice, ...]
    resources: tuple[Resource, ...]
    objective: Objective = LeastTotal()

    def __post_init__(self) -> None:
        set_fields(self, choices=tuple(self.choices), resources=tuple(self.resources))
        if not self.choices:
            raise ValueError("the problem has no choices; give at least one")
        _no_twins("choice", [name for choice in self.choices for name in choice.names])
        _no_twins("resource", [resource.name for resource in self.resources])
        for resource in self.resources:
            for term in resource.terms:
                self._check_fit(resource, term)
        if isinstance(self.objective, Cheapest) and self.objective.resource not in (r.name for r in self.resources):
            raise ValueError(
                f"the objective names the resource {self.objective.resource!r}; "
                f"choose one of {[r.name for r in self.resources]}"
            )

    def _check_fit(self, resource: Resource, term: Term) -> None:
        if not all(0 <= index < len(self.choices) for index in term.choices):
            raise ValueError(
                f"the {resource.name} term of layer {term.layer!r} depends on choices {term.choices}; "
                f"the indices must lie in 0 .. {len(self.choices) - 1}"
            )
        wanted = tuple(len(self.choices[index].options) for index in term.choices)
        if term.costs.shape != wanted:
            raise ValueError(
                f"the {resource.name} costs of layer {term.layer!r} have the shape {term.costs.shape}; "
                f"its choices have {wanted} options"
            )

    def resource(self, name: str) -> Resource:
        """The resource of this name."""
        return next(resource for resource in self.resources if resource.name == name)

    def degradation(self, picked: Sequence[int]) -> float:
        """What the choices lose together when choice i takes its option number ``picked[i]``."""
        total = 0.0
        for choice, option in zip(self.choices, picked, strict=True):
            total += choice.degradation[option]  # in this order, as the solver adds it up
        return total

    def worst(self, picked: Sequence[int]) -> float:
        """What the choice loses that loses most."""
        return max(choice.degradation[option] for choice, option in zip(self.choices, picked, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """The problem as what JSON can hold."""
        return {
            "choices": [
                {"name": c.name, "options": list(c.options), "degradation": list(c.degradation), "tied": list(c.tied)}
                for c in self.choices
            ],
            "resources": [
                {
                    "name": r.name,
                    "terms": [
                        {"layer": t.layer, "choices": list(t.choices), "costs": t.costs.tolist()} for t in r.terms
                    ],
                    "constant": r.constant,
                    "budget": r.budget,
                }
                for r in self.resources
            ],
            "objective": {"kind": type(self.objective).__name__, **vars(self.objective)},
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Problem:
        """The problem that :meth:`to_dict` wrote."""
        objective = dict(data["objective"])
        kind = objective.pop("kind")
        if kind not in OBJECTIVES:
            raise ValueError(f"the objective is of kind {kind!r}; choose one of {sorted(OBJECTIVES)}")
        return cls(
            choices=tuple(Choice(**{**c, "tied": tuple(c["tied"])}) for c in data["choices"]),
            resources=tuple(
                Resource(**{**r, "terms": tuple(Term(**{**t, "costs": np.array(t["costs"])}) for t in r["terms"])})
                for r in data["resources"]
            ),
            objective=OBJECTIVES[kind](**objective),
        )


def _no_twins(kind: str, names: list[str]) -> None:
    twins = {name for name in names if names.count(name) > 1}
    if twins:
        raise ValueError(f"the {kind} name {min(twins)!r} is used more than once; give each {kind} a name of its own")
