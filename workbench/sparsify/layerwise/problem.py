"""What a method is given of one layer, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.sparsify.amounts import Amount
from workbench.sparsify.patterns import Blocks, Elements, NofM, Pattern
from workbench.sparsify.sites import Site


@dataclass(frozen=True)
class Problem:
    """A layer's weight, and second moments of what it is multiplied by.

    ``weight`` is ``[groups, outputs, columns]``, the columns as patterns see them: kernel place by kernel place, the
    inputs of one place side by side. ``moments`` is the mean of ``x x^T``, ``[groups, columns, columns]`` (half the
    Hessian of the squared output error); where the layer can have another bias, of ``x`` without its mean. ``inputs``
    is the mean of the squares, ``[groups, columns]``. ``gone`` are the weights that are masked before, bool as
    ``weight``.
    """

    name: str
    weight: Tensor
    moments: Tensor
    inputs: Tensor
    gone: Tensor

    @property
    def site(self) -> Site:
        """The weight as a matrix ``[out, columns]``, for a pattern."""
        groups, outputs, columns = self.weight.shape
        return Site(self.name, torch.Size([groups * outputs, columns]))

    def lost(self, weight: Tensor) -> float:
        """The mean squared output error of another weight."""
        change = weight - self.weight
        return float((change * (change @ self.moments)).sum().clamp_min(0))

    def damped(self, damp: float) -> Tensor:
        """The moments with ``damp`` times their mean diagonal added to it, 1 for what is always zero.

        Raises
        ------
        ValueError
            They are singular.
        """
        found = self.moments.clone()
        diagonal = torch.diagonal(found, dim1=1, dim2=2)
        diagonal.add_(damp * diagonal.mean(1, keepdim=True)).add_(self.dead)
        if torch.linalg.cholesky_ex(found).info.any():
            raise ValueError(
                f"the second moments of what {self.name} reads are singular with damp={damp}; give more calibration "
                "data, or a larger damp (0.01 is usual)"
            )
        return found

    @property
    def dead(self) -> Tensor:
        """Which columns are multiplied by nothing but zeros or, with another bias, a constant: bool as ``inputs``."""
        return torch.diagonal(self.moments, dim1=1, dim2=2) == 0


@dataclass(frozen=True)
class Solution:
    """The weights that stay, with their values; both in the shape of the problem's weight. What is masked is zero."""

    weight: Tensor
    kept: Tensor

    @classmethod
    def of(cls, weight: Tensor, kept: Tensor) -> Solution:
        """With zeros at what leaves."""
        return cls(weight.masked_fill(~kept, 0), kept)


Method = Callable[[Problem, Pattern, Amount], Solution]


def divisible(pattern: Pattern, site: Site) -> None:
    """See that a weight can have a pattern.

    Raises
    ------
    ValueError
        Its shape does not divide, or whole slices would leave, for which there are better ways.
    """
    if not isinstance(pattern, Elements | NofM | Blocks):
        raise ValueError(
            f"{pattern} removes whole slices of {site.name}; layer by layer there are Elements, NofM and Blocks, and "
            "wb.Study for channels"
        )
    pattern.cells(site, torch.empty(site.shape, device="meta"))
