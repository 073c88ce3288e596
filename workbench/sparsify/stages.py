"""Recipes as values: what happens to a model's weights while it is trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from workbench.sparsify.criteria import Criterion, Gradient, Magnitude
from workbench.sparsify.patterns import NofM
from workbench.sparsify.penalties import Penalty
from workbench.sparsify.rule import Rule
from workbench.sparsify.schedules import Schedule
from workbench.sparsify.scopes import Each, Erk, Together

UNITS = ("steps", "epochs")
CLOSE = 1e-6  # of times: a schedule may round them


@dataclass(frozen=True)
class Regrow:
    """RigL (Evci et al. 2020): every so often a share of what is left goes, and as much grows where the gradient is
    largest, from zero. The share falls from ``share`` as a half cosine, to 0 at ``until``."""

    every: float
    until: float
    share: float = 0.3
    drop: Criterion = Magnitude()
    grow: Criterion = Gradient()

    def __post_init__(self) -> None:
        if not (self.every > 0 and self.until > 0 and 0 < self.share <= 1):
            raise ValueError(f"{self} cannot be; every and until are above 0, share is above 0 and at most 1")

    def fraction(self, time: float) -> float:
        """The share that moves at a time since the stage began."""
        return self.share / 2 * (1 + math.cos(math.pi * time / self.until)) if time < self.until else 0.0


@dataclass(frozen=True)
class Prune:
    """Masks grow along a schedule.

    Parameters
    ----------
    schedule : time to the share that is masked
    rule : which weights
    every : how often the masks are chosen anew, in the recipe's unit; 0 for every step that changes the share
    returning : masked weights compete at every update, with the value that they had, and may come back (movement)
    reset_momentum : where weights come back, all momentum of these tensors is set to zero, not only theirs (AC/DC)
    rewind : the time to whose weights the model returns whenever masks are chosen (lottery tickets)
    regrow : masked weights may come back from zero while the share stays (RigL)

    Raises
    ------
    ValueError
        A time is below zero, masks are chosen before the time of ``rewind``, or the rule cannot have the final share.
    """

    schedule: Schedule
    rule: Rule = Rule()
    every: float = 0
    returning: bool = False
    reset_momentum: bool = False
    rewind: float | None = None
    regrow: Regrow | None = None

    def __post_init__(self) -> None:
        if self.every < 0 or (self.rewind is not None and self.rewind < 0):
            raise ValueError(f"every={self.every} and rewind={self.rewind} are times; give 0 or more")
        if self.rewind is not None and self._masks_before(self.rewind):
            raise ValueError(
                f"masks are chosen before rewind={self.rewind:g}, so that there are no dense weights of then to return "
                "to; give a time before the first masks, 0 for the first weights"
            )
        if why := _impossible(self.rule, self.final):
            raise ValueError(why)

    @property
    def final(self) -> float:
        """The share that is masked in the end."""
        return self.schedule(self.schedule.end)

    def _masks_before(self, time: float) -> bool:
        """Whether masks are chosen before a time, at whatever steps."""
        begin, until = self.schedule.begin, time - CLOSE * max(1.0, time)
        if until <= begin or self.schedule(begin) > 0 or until >= self.schedule.end:
            return until > begin
        if self.every:
            until = begin + int((until - begin) / self.every) * self.every
        return self.schedule(until) > 0


@dataclass(frozen=True)
class Hold:
    """What is zero when it begins stays zero: a sparse model is trained further (SparseML's constant modifier).

    With ``begin`` 0 that is what is zero when the sparsifier is made: load the weights first.
    """

    layers: tuple[str, ...] = ("*",)
    ignore: tuple[str, ...] = ()
    begin: float = 0


@dataclass(frozen=True)
class Recipe:
    """Stages, which may overlap: a weight is masked where any stage masks it. ``penalties`` are terms of the loss."""

    stages: tuple[Prune | Hold, ...]
    penalties: tuple[Penalty, ...] = ()
    unit: str = "steps"

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ValueError(f"a recipe counts {self.unit!r}; give {' or '.join(UNITS)}")


def _impossible(rule: Rule, share: float) -> str:
    """Why a rule cannot have a share, as far as that shows without a model."""
    pattern, scope = rule.pattern, rule.scope
    if not isinstance(pattern, NofM):
        return ""
    if isinstance(scope, Together | Erk):
        return (
            f"{pattern} has sets of {pattern.m} that compete alone, so that {type(scope).__name__} has nothing to "
            "compare; use Each, or another pattern"
        )
    most = pattern.most(pattern.m)
    if isinstance(scope, Each) and round(share * pattern.m) > most:
        return f"{pattern} lets at most {most / pattern.m:.4g} leave, not {share:g}; give a smaller share"
    return ""


def described(value: Any) -> str:
    """A value as text that is the same in every process: functions by their name, and all fields."""
    if is_dataclass(value) and not isinstance(value, type):
        inside = (f"{field.name}={described(getattr(value, field.name))}" for field in fields(value))
        return f"{type(value).__qualname__}({', '.join(inside)})"
    if isinstance(value, tuple | list | frozenset):
        items = sorted(map(described, value)) if isinstance(value, frozenset) else map(described, value)
        return f"({', '.join(items)})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {described(item)}' for key, item in value.items())}}}"
    if isinstance(value, Callable):  # type: ignore[arg-type]
        return getattr(value, "__qualname__", type(value).__qualname__)
    return repr(value)
