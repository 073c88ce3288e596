"""The units that compete, and which of them go: exactly so many, ties by their place."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.sparsify.units import Units


@dataclass(frozen=True)
class Contest:
    """What the units of one tensor or group are worth, ``[sets, units]``, and which are ``gone``: these go first."""

    units: Units
    worth: Tensor
    gone: Tensor

    def __post_init__(self) -> None:
        wrong = int((~self.worth.isfinite()).sum())
        if wrong:
            raise ValueError(
                f"the criterion gives {wrong} scores for {self.name} that are no finite numbers; look at its weights "
                "and gradients, or choose another criterion"
            )

    @property
    def name(self) -> str:
        """The tensor's, or the group's."""
        return self.units.name

    @property
    def count(self) -> int:
        """How many units there are."""
        return self.worth.numel()

    @property
    def most(self) -> int:
        """How many units may leave."""
        return self.units.most(self.worth.shape[1]) * len(self.worth)

    def ranks(self) -> Tensor:
        """The place of every unit in the order of its set: 0 leaves first. Those that are gone come before all others,
        equal ones by their place."""
        by_worth = self.worth.argsort(dim=1, stable=True)
        gone = self.gone.gather(1, by_worth)
        order = by_worth.gather(1, (~gone).to(torch.uint8).argsort(dim=1, stable=True))
        places = torch.arange(order.shape[1], device=order.device).expand_as(order)
        return torch.empty_like(order).scatter_(1, order, places)

    def without(self, number: int, gone: int = 0) -> Tensor:
        """Which units stay when so many of every set leave, bool ``[sets, units]``.

        Raises
        ------
        ValueError
            The pattern lets fewer leave, and not so many are ``gone`` for another reason.
        """
        most = max(self.units.most(self.worth.shape[1]), gone)
        if number > most:
            raise ValueError(
                f"{number} of {self.worth.shape[1]} units of {self.name} shall leave, and at most {most} may; ask for "
                f"a share of at most {most / self.worth.shape[1]:.4g}"
            )
        return self.ranks() >= number
