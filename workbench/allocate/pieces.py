"""What an allocation problem is made of: choices, what a layer costs under them, and resources with a budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

EXACT_INTEGER = 2**53  # sums of integers stay exact in float64 below this
ROUNDING = 1e-12  # relative: sums of fractions taken in another order differ by less
MOST_CHOICES = 3  # one term may couple in-width, out-width and a rank


@dataclass(frozen=True)
class Choice:
    """One thing to decide: the width of a channel group, or the rank of a layer.

    Parameters
    ----------
    name : what is decided, unique in its problem
    options : the widths or ranks to choose from, increasing; the largest leaves the model as it is
    degradation : what each option loses, finite and >= 0; 0 at the untouched one; it need not be monotone
    tied : further names that get the same option (see :func:`~workbench.allocate.edit.tie`)

    Examples
    --------
    >>> Choice("conv1", (8, 16, 32), (0.4, 0.1, 0.0)).options
    (8, 16, 32)
    """

    name: str
    options: tuple[int, ...]
    degradation: tuple[float, ...]
    tied: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        set_fields(
            self, options=tuple(int(o) for o in self.options), degradation=tuple(float(d) for d in self.degradation)
        )
        if not self.options:
            raise ValueError(f"choice {self.name!r} has no options; give at least one width or rank")
        if self.options[0] < 1 or any(low >= high for low, high in pairwise(self.options)):
            raise ValueError(
                f"the options of choice {self.name!r} are {self.options}; they must be >= 1 and strictly increasing"
            )
        if len(self.degradation) != len(self.options):
            raise ValueError(
                f"choice {self.name!r} has {len(self.options)} options and {len(self.degradation)} degradations; "
                "give one degradation an option"
            )
        bad = [d for d in self.degradation if not (math.isfinite(d) and d >= 0)]
        if bad:
            raise ValueError(f"choice {self.name!r} has the degradation {bad[0]}; each must be finite and >= 0")

    @property
    def names(self) -> tuple[str, ...]:
        """The name and all names tied to it."""
        return (self.name, *self.tied)


@dataclass(frozen=True, eq=False)
class Term:
    """What one layer costs, as a table over the one to three choices it depends on.

    Parameters
    ----------
    layer : the layer's name, for messages
    choices : indices into the problem's choices, all different
    costs : int64 or float64, finite and >= 0: ``costs[i, j]`` is for option i of the first choice, j of the second

    Examples
    --------
    >>> Term("depthwise", (0,), np.array([72, 144])).costs
    array([ 72, 144])
    """

    layer: str
    choices: tuple[int, ...]
    costs: np.ndarray

    def __post_init__(self) -> None:
        costs = np.array(self.costs, order="C")
        if costs.dtype.kind in "iu" and costs.dtype != np.int64:
            costs = costs.astype(np.int64)
        set_fields(self, choices=tuple(int(c) for c in self.choices), costs=costs)
        if not 1 <= len(self.choices) <= MOST_CHOICES or len(set(self.choices)) != len(self.choices):
            raise ValueError(
                f"the term of layer {self.layer!r} depends on choices {self.choices}; "
                "give one to three different indices"
            )
        if costs.dtype not in (np.dtype(np.int64), np.dtype(np.float64)):
            raise ValueError(f"the costs of layer {self.layer!r} are {costs.dtype}; give int64 or float64")
        if costs.ndim != len(self.choices) or costs.size == 0:
            raise ValueError(
                f"the costs of layer {self.layer!r} have the shape {costs.shape} for {len(self.choices)} choices; "
                "give one non-empty axis a choice"
            )
        if not np.isfinite(costs).all() or (costs < 0).any():
            raise ValueError(f"the costs of layer {self.layer!r} must all be finite and >= 0; some are not")
        costs.setflags(write=False)

    @classmethod
    def product(cls, layer: str, choices: Sequence[int], options: Sequence[Sequence[int]], factor: float) -> Term:
        """The usual case: ``factor`` times the chosen widths.

        ``options[i]`` are the options of ``choices[i]``. A choice given twice (a convolution inside one residual
        stream) counts twice and becomes one axis.

        Examples
        --------
        >>> Term.product("conv", (0, 1), ((1, 2), (4, 8)), 9).costs
        array([[ 36,  72],
               [ 72, 144]])
        >>> Term.product("shortcut", (0, 0), ((2, 4), (2, 4)), 10).costs
        array([ 40, 160])
        """
        if len(choices) != len(options):
            raise ValueError(
                f"layer {layer!r} has {len(choices)} choices and {len(options)} tuples of options; give as many"
            )
        widths: dict[int, np.ndarray] = {}
        for choice, axis in zip(choices, options, strict=True):
            array = np.asarray(axis, dtype=np.int64)
            widths[choice] = widths[choice] * array if choice in widths else array
        table = np.asarray(factor)
        for array in widths.values():
            table = np.multiply.outer(table, array)
        return cls(layer, tuple(widths), table)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Term):
            return NotImplemented
        same = (self.layer, self.choices, self.costs.dtype) == (other.layer, other.choices, other.costs.dtype)
        return same and np.array_equal(self.costs, other.costs)

    def __repr__(self) -> str:
        return f"Term({self.layer!r}, {self.choices}, costs {self.costs.min()} to {self.costs.max()})"


@dataclass(frozen=True)
class Resource:
    """A cost that has a budget: ``constant`` plus the sum of ``terms`` must not exceed ``budget``.

    Examples
    --------
    >>> Resource("macs", (Term("conv", (0,), np.array([10, 20])),), constant=5, budget=20).name
    'macs'
    """

    name: str
    terms: tuple[Term, ...]
    constant: float
    budget: float

    def __post_init__(self) -> None:
        set_fields(self, terms=tuple(self.terms))
        if not (math.isfinite(self.constant) and self.constant >= 0):
            raise ValueError(f"resource {self.name!r} has the constant {self.constant}; it must be finite and >= 0")
        if not math.isfinite(self.budget):
            raise ValueError(f"resource {self.name!r} has the budget {self.budget}; it must be finite")
        most = self.constant + sum(float(term.costs.max()) for term in self.terms)
        if most >= EXACT_INTEGER:
            raise ValueError(
                f"resource {self.name!r} can cost {most:.3g}; costs must stay below 2**53, so use a larger unit"
            )

    @property
    def limit(self) -> float:
        """The budget; where costs are fractions with room for the rounding of their sum, one part in 10**12."""
        whole = all(term.costs.dtype == np.int64 for term in self.terms) and self.constant == int(self.constant)
        return self.budget if whole else self.budget + ROUNDING * abs(self.budget)

    def cost(self, picked: Sequence[int]) -> float:
        """The total cost when choice i takes its option number ``picked[i]``."""
        total = self.constant
        for term in self.terms:
            total += term.costs[tuple(picked[choice] for choice in term.choices)].item()
        return total


def set_fields(value: object, **fields: object) -> None:
    """Set fields of a frozen value while it is being made."""
    for name, field in fields.items():
        object.__setattr__(value, name, field)
