"""Criteria on what layers read and give on calibration data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from workbench.sparsify.criteria.base import Criterion
from workbench.sparsify.view import WeightView


@dataclass(frozen=True)
class Wanda(Criterion):
    """Score of an element: ``|w|`` times the 2-norm of what it is multiplied by (Sun et al. 2024).

    The paper compares within each output: ``Elements(by_row=True)``. A convolution's weight is multiplied by the inputs
    at all positions of its place in the kernel.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"inputs"})

    def elements(self, view: WeightView) -> Tensor:
        return view.weight.abs() * view.need("inputs")


@dataclass(frozen=True)
class Activation(Criterion):
    """Score of an output channel: the mean of what it gives behind a ReLU, or with ``active`` how often that is above
    0 (one minus APoZ, Hu et al. 2016)."""

    active: bool = False

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]  # it depends on the field
        """What must be gathered."""
        return frozenset({"active" if self.active else "outputs"})

    def elements(self, view: WeightView) -> Tensor:
        return view.need("active" if self.active else "outputs")
