"""From a score a unit to the order in which units leave."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from workbench.select.path import GroupView, Path

Aggregate = Callable[[Tensor], Tensor]  # scores [members, units] -> [units]


def total(scores: Tensor) -> Tensor:
    """A unit is worth what its members are worth together."""
    return scores.sum(0)


def mean(scores: Tensor) -> Tensor:
    """A unit is worth what its members are worth on average, each member's units scaled to a mean of one."""
    return (scores / scores.mean(1, keepdim=True).clamp_min(torch.finfo(scores.dtype).tiny)).mean(0)


def largest(scores: Tensor) -> Tensor:
    """A unit is worth what its best member is worth, each member's units scaled to a mean of one."""
    return (scores / scores.mean(1, keepdim=True).clamp_min(torch.finfo(scores.dtype).tiny)).amax(0)


def ranked(view: GroupView, scores: Tensor) -> Path:
    """The units with the smallest scores leave first; equal ones by their number.

    Raises
    ------
    ValueError
        There is not one finite score a unit.
    """
    units = view.group.units
    if scores.shape != (units,) or not scores.isfinite().all():
        wrong = int((~scores.isfinite()).sum())
        what = f"{wrong} are not finite" if scores.shape == (units,) else f"their shape is {tuple(scores.shape)}"
        raise ValueError(
            f"the criterion's scores of {view.group.name!r} are wrong: {what}; give one finite number a unit, [{units}]"
        )
    present, order = torch.ones(units, dtype=torch.bool), []
    for unit in sorted(range(units), key=lambda unit: (scores[unit].item(), unit)):
        if view.may_leave(present)[unit]:
            present[unit] = False
            order.append(unit)
    stay = present.nonzero().flatten().tolist()
    return Path((*order, *stay), least=len(stay))
