"""Selection by hand: the user names the channels that leave."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from workbench.select.elimination import Elimination
from workbench.select.path import GroupView, Path
from workbench.select.ranking import ranked


@dataclass(frozen=True)
class ByHand:
    """The named units of a group leave first, in this order; all others after them as ``then`` orders them.

    Examples
    --------
    >>> ByHand({"features.0": [3, 1]}).first
    {'features.0': [3, 1]}
    """

    first: Mapping[str, Sequence[int]]
    then: Callable[[GroupView], Path] = field(default_factory=Elimination)

    def __call__(self, view: GroupView) -> Path:
        path = self.then(view)
        named = list(self.first.get(view.group.name, ()))
        wrong = [unit for unit in named if unit not in range(view.group.units)] or len(set(named)) < len(named)
        if wrong:
            what = f"{wrong[0]} does not exist" if isinstance(wrong, list) else "one is named twice"
            raise ValueError(
                f"units of {view.group.name!r} that leave by hand: {what}; name some of 0 to {view.group.units - 1}, "
                "each once"
            )
        if not named:
            return path
        place = {unit: number for number, unit in enumerate([*named, *(u for u in path.order if u not in named)])}
        return ranked(view, torch.tensor([float(place[unit]) for unit in range(view.group.units)], dtype=torch.float64))
