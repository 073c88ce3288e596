"""What every criterion does, in four steps that most leave as they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from workbench.sparsify.view import WeightView

Reduce = Callable[[Tensor], Tensor]  # cells [sets, units, elements] -> [sets, units]


class Criterion:
    """Scores of elements, what they make of a unit, and what is remembered of it from step to step.

    ``needs`` names what must be gathered: ``"gradient"``, ``"inputs"``, ``"outputs"``, ``"active"``. ``remembers``
    says that what steps have shown adds up, ``lasts`` that it goes on when a mask was chosen.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    remembers: ClassVar[bool] = False
    lasts: ClassVar[bool] = False

    def elements(self, view: WeightView) -> Tensor:
        """Scores in the weight's shape."""
        raise NotImplementedError

    def units(self, cells: Tensor, reduce: Reduce) -> Tensor:
        """From the scores of elements to those of units, ``[sets, units, elements]`` to ``[sets, units]``."""
        return reduce(cells)

    def remember(self, before: Tensor, now: Tensor) -> Tensor:
        """What is known of the units after one more step."""
        return before + now

    def worth(self, known: Tensor) -> Tensor:
        """From what is known of the units to what they compete with."""
        return known


@dataclass(frozen=True)
class Own(Criterion):
    """A function of the user's, with the weights' gradients where it ``asks`` for them.

    Examples
    --------
    >>> Own(lambda view: view.weight.abs() * view.need("gradient").abs(), asks=frozenset({"gradient"})).needs
    frozenset({'gradient'})
    """

    function: Callable[[WeightView], Tensor]
    asks: frozenset[str] = frozenset()

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]  # here it is the user's choice
        """What must be gathered."""
        return self.asks

    def elements(self, view: WeightView) -> Tensor:
        """Scores in the weight's shape.

        Raises
        ------
        ValueError
            The function gives another shape.
        """
        found = self.function(view)
        if found.shape != view.weight.shape:
            raise ValueError(
                f"the criterion gives scores of shape {tuple(found.shape)} for {view.site.name}; it must give one for "
                f"each element, {tuple(view.weight.shape)}"
            )
        return found


def criterion_of(given: Criterion | Callable[[WeightView], Tensor]) -> Criterion:
    """A criterion as it is, a function as an ``Own``."""
    return given if isinstance(given, Criterion) else Own(given)
