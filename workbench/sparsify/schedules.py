"""Schedules: how much is masked when. Pure functions of the time, in the recipe's unit, steps or epochs.

Before ``begin`` nothing is masked; from ``end`` on a ramp stays at ``final``. Movement's warm-up and cool-down (Sanh et
al. 2020) are a ``Cubic`` that begins after the one and ends before the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol


class Schedule(Protocol):
    """From the time to the share that is masked. Gradients count from ``begin`` on; after ``end`` nothing changes."""

    @property
    def begin(self) -> float: ...

    @property
    def end(self) -> float: ...

    def __call__(self, time: float) -> float: ...


@dataclass(frozen=True)
class OneShot:
    """All at once."""

    final: float
    begin: float = 0

    @property
    def end(self) -> float:
        """When it is done: at once."""
        return self.begin

    def __call__(self, time: float) -> float:
        return self.final if time >= self.begin else 0.0


@dataclass(frozen=True)
class _Ramp:
    final: float
    end: float
    begin: float = 0
    initial: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.initial <= self.final <= 1:
            raise ValueError(
                f"sparsity shall go from {self.initial} to {self.final}; give shares from 0 to 1, the first not above "
                "the second"
            )
        if not self.begin < self.end:
            raise ValueError(f"the schedule begins at {self.begin} and ends at {self.end}; it must end later")

    def __call__(self, time: float) -> float:
        if time < self.begin:
            return 0.0
        if time >= self.end:
            return self.final  # exactly, whatever the curve rounds to
        return self.curve((time - self.begin) / (self.end - self.begin))

    def curve(self, x: float) -> float:
        """The share when x of the way, from 0 to below 1, is gone."""
        raise NotImplementedError


@dataclass(frozen=True)
class Linear(_Ramp):
    """``s0 + (sT - s0) x``."""

    def curve(self, x: float) -> float:
        return self.initial + (self.final - self.initial) * x


@dataclass(frozen=True)
class Cubic(_Ramp):
    """``sT + (s0 - sT) (1 - x)^3``: AGP, GMP (Zhu & Gupta 2017)."""

    def curve(self, x: float) -> float:
        return self.final + (self.initial - self.final) * (1 - x) ** 3


@dataclass(frozen=True)
class Polynomial(_Ramp):
    """``sT + (s0 - sT) (1 - x)^power``: early for powers above 1. SparseML's ``inverse_cubic`` is a third."""

    power: float = 3.0

    def curve(self, x: float) -> float:
        return self.final + (self.initial - self.final) * (1 - x) ** self.power


@dataclass(frozen=True)
class Late(_Ramp):
    """``s0 + (sT - s0) x^power``: what Intel calls "cube" is its third power, which is not AGP."""

    power: float = 3.0

    def curve(self, x: float) -> float:
        return self.initial + (self.final - self.initial) * x**self.power


@dataclass(frozen=True)
class Exponential(_Ramp):
    """``1 - (1 - s0) ((1 - sT) / (1 - s0))^x``: the same share of the rest at every step; Intel's default."""

    def curve(self, x: float) -> float:
        if self.initial == 1:
            return 1.0
        return 1 - (1 - self.initial) * ((1 - self.final) / (1 - self.initial)) ** x


@dataclass(frozen=True)
class Cosine(_Ramp):
    """``s0 + (sT - s0) (1 - cos(pi x / 2))``."""

    def curve(self, x: float) -> float:
        return self.initial + (self.final - self.initial) * (1 - math.cos(math.pi * x / 2))


@dataclass(frozen=True)
class Alternating:
    """AC/DC (Peste et al. 2021): dense until ``begin``, then phases of ``compressed`` and ``dense`` length in turn, and
    compressed for good from ``end`` on. Every compressed phase chooses its mask when it begins."""

    final: float
    end: float
    compressed: float
    dense: float
    begin: float = 0

    def __post_init__(self) -> None:
        if not (0 <= self.final <= 1 and self.begin < self.end and self.compressed > 0 and self.dense > 0):
            raise ValueError(
                f"{self} has no phases; final is a share from 0 to 1, end is after begin, both phases are above 0"
            )

    def __call__(self, time: float) -> float:
        if time < self.begin:
            return 0.0
        within = (time - self.begin) % (self.compressed + self.dense)
        return self.final if time >= self.end or within < self.compressed else 0.0


@dataclass(frozen=True)
class Rounds:
    """Iterative magnitude pruning: every ``length``, ``rounds`` times, the same share of the rest is masked."""

    final: float
    rounds: int
    length: float
    begin: float = 0  # gradients count from then on

    def __post_init__(self) -> None:
        if not (0 <= self.final < 1 and self.rounds >= 1 and self.length > 0):
            raise ValueError(f"{self} cannot be; final is a share below 1, rounds is 1 or more, length is above 0")

    @property
    def end(self) -> float:
        """When the last round's mask is chosen."""
        return self.rounds * self.length

    def __call__(self, time: float) -> float:
        done = min(int(time / self.length + 1e-9), self.rounds)  # epochs are fractions of steps, which round
        return self.final if done == self.rounds else 1 - (1 - self.final) ** (done / self.rounds)
