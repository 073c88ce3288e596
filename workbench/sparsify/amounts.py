"""How much leaves: an absolute amount, or one of what is left."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any


@dataclass(frozen=True)
class Absolute:
    """A share (float, 0 to 1) or number (int) of all units; those that are masked already count. So schedules mean it.

    Examples
    --------
    >>> Absolute(0.5).count(8, 3), Absolute(2).count(8, 3), Further(0.5).count(8, 4)
    (4, 3, 6)
    """

    value: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", _plain(self.value))

    def count(self, units: int, gone: int) -> int:
        """How many of the units are masked in the end, never fewer than are."""
        return max(gone, wanted(self.value, units))


@dataclass(frozen=True)
class Further:
    """A share or number of the units that are not masked yet: 0.5 and then 0.5 is 0.75, as in torch.nn.utils.prune."""

    value: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", _plain(self.value))

    def count(self, units: int, gone: int) -> int:
        """How many of the units are masked in the end."""
        return gone + wanted(self.value, units - gone)


Amount = Absolute | Further


def amount_of(given: Amount | float) -> Amount:
    """A number is absolute."""
    return given if isinstance(given, Absolute | Further) else Absolute(given)


def wanted(value: float, units: int) -> int:
    """A share of some units as their number, rounded to the nearest, halves to the even one; a number as it is.

    Raises
    ------
    ValueError
        There are fewer.
    """
    if not isinstance(value, int):
        return round(value * units)
    if value > units:
        raise ValueError(f"{value} units shall leave, and there are {units}; ask for fewer, or for a share below 1.0")
    return value


def share_of(given: Any) -> float | None:
    """A share from 0 to 1 as Python's own float, also of an integer or of NumPy's; None where it is none."""
    return float(given) if _is(given, Real) and 0 <= given <= 1 else None


def _is(given: Any, kind: type) -> bool:
    return isinstance(given, kind) and not isinstance(given, bool)


def _plain(value: Any) -> float:
    """A share or a number of units as Python's own."""
    if _is(value, Integral) and value >= 0:
        return int(value)
    share = None if isinstance(value, Integral) else share_of(value)
    if share is None:
        raise ValueError(
            f"an amount of {value!r} is neither a share nor a number; give a float from 0.0 to 1.0, or an int from 0 on"
        )
    return share
