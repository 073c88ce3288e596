"""One stage while it runs: what it knows of the units, its own masks, and when these are due."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from workbench.sparsify.amounts import Absolute
from workbench.sparsify.contest import Contest
from workbench.sparsify.criteria import Criterion
from workbench.sparsify.rule import merged, scored_sites
from workbench.sparsify.sites import Site
from workbench.sparsify.stages import Prune, Regrow
from workbench.sparsify.units import Masks, Units
from workbench.sparsify.view import WeightView

Views = Mapping[str, WeightView]
TOLERANCE = 1e-9  # of times, which are fractions of epochs


class Running:
    """A ``Prune`` stage in progress."""

    def __init__(self, stage: Prune, units: list[Units]):
        self.stage, self.units = stage, units
        self.masks: Masks = {}  # empty until the first are chosen
        self.target = 0.0
        self.known: dict[str, Tensor] = {}
        self.aside: dict[str, Tensor] = {}  # what masked weights were, where they may come back
        self.grown = 0  # how often weights grew again

    @property
    def sites(self) -> list[Site]:
        """The tensors by which its units are scored."""
        return scored_sites(self.units)

    @property
    def needs(self) -> frozenset[str]:
        """What its criteria need."""
        regrow = self.stage.regrow
        more = regrow.drop.needs | regrow.grow.needs if regrow else frozenset[str]()
        return self.stage.rule.criterion.needs | more

    @property
    def gathers(self) -> bool:
        """Whether its criterion looks at every step's gradient, and not at the weights when masks are due."""
        return "gradient" in self.stage.rule.criterion.needs

    def over(self, time: float) -> bool:
        """Whether gradients do not count yet, or no more."""
        schedule = self.stage.schedule
        done = time > schedule.end and self.target == schedule(time) and not self.stage.returning
        return time < schedule.begin or done

    def due(self, before: float, now: float) -> bool:
        """Whether the masks are to be chosen anew between two times, the later included."""
        schedule, every = self.stage.schedule, self.stage.every
        if now < schedule.begin or (schedule(now) == self.target and not self.stage.returning):
            return False
        at_once = not self.masks and schedule(schedule.begin) != self.target
        if not every or at_once or before < schedule.end <= now:
            return True
        return _count(now - schedule.begin, every) > _count(before - schedule.begin, every)

    def rehearse(self, masked: Mapping[str, Tensor]) -> None:
        """Let the final share leave, whatever units these are: what cannot be had is refused before training.

        Raises
        ------
        ValueError
            The rule cannot have that share of this model.
        """
        present = [one.present(masked) for one in self.units]
        contests = [Contest(one, torch.zeros_like(here, dtype=torch.float32), ~here)
                    for one, here in zip(self.units, present, strict=True)]  # fmt: skip
        self.stage.rule.scope(contests, Absolute(float(self.stage.final)))

    def look(self, views: Views) -> None:
        """Take in the weights and gradients of a step."""
        self.stage.rule.look(self.units, views, self.known)

    def choose(self, goal: float, masked: Mapping[str, Tensor]) -> None:
        """Its masks at a new share. What is masked already stays so, unless less than now is asked for."""
        rule = self.stage.rule
        if self.stage.returning or goal < self.target:
            gone = {one.name: torch.zeros_like(self.known[one.name], dtype=torch.bool) for one in self.units}
        else:
            gone = {one.name: ~one.present(masked) for one in self.units}
        self.masks = rule.choose(self.units, self.known, gone, Absolute(float(goal)))
        self.target = goal
        if rule.criterion.remembers and not rule.criterion.lasts:
            self.known.clear()

    def due_to_grow(self, time: float) -> bool:
        """Whether weights are to grow again."""
        regrow = self.stage.regrow
        if regrow is None or not self.masks:
            return False
        time -= self.stage.schedule.begin
        return time < regrow.until and _count(time, regrow.every) > self.grown

    def grow(self, time: float, views: Views) -> None:
        """Let the least of what is left go, and as much of the rest grow."""
        regrow = self.stage.regrow
        assert regrow is not None
        time -= self.stage.schedule.begin
        self.grown = _count(time, regrow.every)
        self.masks = merged(one.spread(_moved(one, self.masks, views, regrow, time)) for one in self.units)

    def state(self) -> dict[str, Any]:
        """All that a later process needs to go on."""
        return {"masks": dict(self.masks), "target": self.target, "known": dict(self.known),
                "aside": dict(self.aside), "grown": self.grown}  # fmt: skip

    def load(self, state: Mapping[str, Any], devices: Mapping[str, torch.device]) -> None:
        """Go on from a state, each tensor where its parameter is."""
        where = {**devices, **{one.name: devices[one.scored[0].name] for one in self.units}}
        self.masks, self.known, self.aside = (
            {name: tensor.to(where[name], copy=True) for name, tensor in state[what].items()}
            for what in ("masks", "known", "aside")
        )
        self.target, self.grown = state["target"], state["grown"]


def _moved(one: Units, masks: Masks, views: Views, regrow: Regrow, time: float) -> Tensor:
    """What a unit set keeps when the same number of units goes and grows, bool ``[sets, units]``."""
    kept = one.present(masks)
    number = (regrow.fraction(time) * kept.sum(1, keepdim=True)).long()
    ranks = Contest(one, _worth(one, regrow.drop, views), ~kept).ranks()
    stay = kept & (ranks >= (~kept).sum(1, keepdim=True) + number)
    growing = Contest(one, _worth(one, regrow.grow, views), stay).ranks()
    return stay | (growing >= kept.shape[1] - number)


def _worth(one: Units, criterion: Criterion, views: Views) -> Tensor:
    return criterion.worth(one.scores(criterion, views))


def _count(time: float, every: float) -> int:
    return int(time / every + TOLERANCE)
