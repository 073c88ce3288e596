"""Channel selection: in which order the units of a group leave. One criterion a file.

A criterion is any callable that takes a ``GroupView`` and returns a ``Path``, the order for all widths at once; a
frozen dataclass where it has options. Most give each unit a score and let ``ranked`` do the rest; how scores of several
layers make one is their ``aggregate``. ``needs`` names what the calibration must gather for it beyond second moments:
``"signals"`` of activations, ``"gradients"`` of gates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

from workbench.select.by_hand import ByHand
from workbench.select.elimination import Elimination, followed
from workbench.select.geometric_median import GeometricMedian
from workbench.select.lasso import Lasso
from workbench.select.magnitude import L1, L2
from workbench.select.path import GroupView, Path
from workbench.select.random import Random
from workbench.select.ranking import largest, mean, ranked, total
from workbench.select.signals import ActivationEnergy, ActivePositions, Fisher, Taylor
from workbench.select.slimming import Slimming

Criterion = Callable[[GroupView], Path]
BY_NAME: dict[str, Callable[[], Criterion]] = {
    "elimination": Elimination, "lasso": Lasso, "fisher": Fisher, "taylor": Taylor, "l1": L1, "l2": L2,
    "geometric-median": GeometricMedian, "slimming": Slimming, "activation-energy": ActivationEnergy,
    "active-positions": ActivePositions, "random": Random,
}  # fmt: skip


def by_name(name: str) -> Criterion:
    """The criterion of that name, with its own defaults.

    Raises
    ------
    ValueError
        There is none; the message names them all.
    """
    if name not in BY_NAME:
        raise ValueError(f"there is no criterion {name!r}; choose from {', '.join(BY_NAME)}")
    return BY_NAME[name]()


def name_of(criterion: Any) -> str:
    """What a criterion is called, the same in every process: a function by its name, not by its address."""
    if not is_dataclass(criterion) or isinstance(criterion, type):
        return getattr(criterion, "__qualname__", type(criterion).__qualname__)
    values = ((field.name, getattr(criterion, field.name)) for field in fields(criterion) if field.repr)
    told = (f"{name}={name_of(value) if callable(value) else repr(value)}" for name, value in values)
    return f"{type(criterion).__qualname__}({', '.join(told)})"


def needs_of(criterion: Criterion) -> frozenset[str]:
    """What a criterion needs beyond second moments."""
    return frozenset(getattr(criterion, "needs", ()))


__all__ = [
    "BY_NAME", "L1", "L2", "ActivationEnergy", "ActivePositions", "ByHand", "Criterion", "Elimination", "Fisher",
    "GeometricMedian", "GroupView", "Lasso", "Path", "Random", "Slimming", "Taylor", "by_name", "followed", "largest",
    "mean", "name_of", "needs_of", "ranked", "total",
]  # fmt: skip
