"""What a user may ask of a problem: pins, minimums, forbidden options, ties. Each returns a new problem."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np

from workbench.allocate.pieces import Choice, Resource, Term
from workbench.allocate.problem import Problem


def pin(problem: Problem, name: str, option: int) -> Problem:
    """The problem in which choice ``name`` takes ``option``.

    Examples
    --------
    >>> pin(Problem((Choice("a", (8, 16), (0.1, 0.0)),), ()), "a", 8).choices[0].options
    (8,)
    """
    return keep_options(problem, name, lambda candidate: candidate == option, f"equal to {option}")


def at_least(problem: Problem, name: str, minimum: int) -> Problem:
    """The problem in which choice ``name`` takes an option of ``minimum`` or more."""
    return keep_options(problem, name, lambda candidate: candidate >= minimum, f">= {minimum}")


def forbid(problem: Problem, name: str, options: Collection[int]) -> Problem:
    """The problem in which choice ``name`` takes none of ``options``."""
    return keep_options(problem, name, lambda candidate: candidate not in options, f"outside {sorted(options)}")


def keep_options(problem: Problem, name: str, keep: Callable[[int], bool], wanted: str) -> Problem:
    """The problem in which choice ``name`` has only the options for which ``keep`` is true.

    ``wanted`` completes the sentence "an option ..." in the error.
    """
    index = index_of(problem, name)
    options = problem.choices[index].options
    positions = [i for i, option in enumerate(options) if keep(option)]
    if not positions:
        raise ValueError(f"choice {name!r} has no option {wanted}; its options are {options}")
    return take_options(problem, {index: positions})


def take_options(problem: Problem, positions: dict[int, list[int]]) -> Problem:
    """The problem in which choice ``i`` keeps its options number ``positions[i]``; other choices keep all."""

    def taken(choice: Choice, kept: list[int]) -> Choice:
        return replace(
            choice,
            options=tuple(choice.options[i] for i in kept),
            degradation=tuple(choice.degradation[i] for i in kept),
        )

    def sliced(term: Term) -> Term:
        axes = [positions.get(c, range(len(problem.choices[c].options))) for c in term.choices]
        return replace(term, costs=term.costs[np.ix_(*axes)])

    choices = tuple(taken(c, positions[i]) if i in positions else c for i, c in enumerate(problem.choices))
    return replace(problem, choices=choices, resources=_map_terms(problem, sliced))


def tie(problem: Problem, names: Sequence[str]) -> Problem:
    """The problem in which all ``names`` take the same option value: one choice, whose degradations add up.

    Only values that all of them offer remain. The merged choice stands where the first of them stood.

    Raises
    ------
    ValueError
        A name is unknown, or the choices have no option in common.

    Examples
    --------
    >>> a, b = Choice("a", (8, 16), (0.1, 0.0)), Choice("b", (4, 8, 16), (0.5, 0.2, 0.0))
    >>> tie(Problem((a, b), ()), ["a", "b"]).choices[0].degradation
    (0.30000000000000004, 0.0)
    """
    tied = sorted({index_of(problem, name) for name in names})
    common = set.intersection(*(set(problem.choices[i].options) for i in tied))
    if not common:
        raise ValueError(
            f"the choices {list(names)} have no option in common; give them one multiple, or leave one out of the tie"
        )
    every = {i: [p for p, o in enumerate(problem.choices[i].options) if o in common] for i in tied}
    problem = take_options(problem, every)
    first, rest = tied[0], tied[1:]
    parts = [problem.choices[i] for i in tied]
    merged = Choice(
        parts[0].name,
        parts[0].options,
        tuple(sum(losses) for losses in zip(*(part.degradation for part in parts), strict=True)),
        parts[0].tied + tuple(name for part in parts[1:] for name in part.names),
    )
    left = [i for i in range(len(problem.choices)) if i not in rest]
    moved = {i: left.index(first if i in rest else i) for i in range(len(problem.choices))}
    choices = tuple(merged if i == first else problem.choices[i] for i in left)
    return replace(problem, choices=choices, resources=_map_terms(problem, lambda term: _merge_axes(term, moved)))


def index_of(problem: Problem, name: str) -> int:
    """Where the choice of this name, or tied to it, stands."""
    for index, choice in enumerate(problem.choices):
        if name in choice.names:
            return index
    raise ValueError(f"the problem has no choice {name!r}; its choices are {[c.name for c in problem.choices]}")


def _merge_axes(term: Term, moved: dict[int, int]) -> Term:
    """The term over the new indices; axes that became one choice are replaced by their diagonal."""
    target = [moved[choice] for choice in term.choices]
    unique = list(dict.fromkeys(target))
    axes = [unique.index(choice) for choice in target]
    return Term(term.layer, tuple(unique), np.einsum(term.costs, axes, list(range(len(unique)))))


def _map_terms(problem: Problem, change: Callable[[Term], Term]) -> tuple[Resource, ...]:
    return tuple(replace(r, terms=tuple(change(term) for term in r.terms)) for r in problem.resources)
