"""What a user asks for: at most so much of each cost, in widths of some multiple."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workbench.allocate.pieces import ROUNDING

COUNTED = ("macs", "params", "activation_bytes", "size_bytes")  # on the model itself
RESOURCES = (*COUNTED, "latency_ms")
ABSOLUTE = ("activation_bytes", "size_bytes", "latency_ms")  # above 1 these are bytes and milliseconds, not shares

Multiple = int | Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What the smaller model may cost: shares of the original in (0, 1]; bytes and milliseconds also as amounts.

    Several hold together.

    Parameters
    ----------
    macs : multiply-accumulates of a sample
    params : parameters
    activation_bytes : what all operations write for a sample, in bytes
    size_bytes : parameters and buffers, in bytes
    latency_ms : of one forward pass, in milliseconds, by a table that was measured
    multiple : widths are multiples of this, or whole; a mapping gives each group its own, by a glob of its name or of a
        layer that makes it, or by that layer's kind, and of several that match the last counts

    Raises
    ------
    ValueError
        A number is out of range, nothing is limited, or a multiple is not a positive integer.

    Examples
    --------
    >>> Budget(macs=0.5, multiple=8)
    Budget(macs=0.5, multiple=8)
    >>> Budget(size_bytes=200_000, multiple={"*": 8, "linear": 16}).limit("size_bytes", dense=1_000_000)
    200000
    """

    macs: float | None = None
    params: float | None = None
    activation_bytes: float | None = None
    size_bytes: float | None = None
    latency_ms: float | None = None
    multiple: Multiple = 1

    def __post_init__(self) -> None:
        for name, amount in self.amounts.items():
            number = isinstance(amount, int | float) and not isinstance(amount, bool)
            if not number or not math.isfinite(amount) or amount <= 0 or (amount > 1 and name not in ABSOLUTE):
                absolute = f", or an amount above 1 in {name.rpartition('_')[2]}" if name in ABSOLUTE else ""
                raise ValueError(
                    f"the budget {name}={amount!r} is not a share of the original; give a number above 0 and at most 1"
                    f"{absolute}: 0.5 keeps half"
                )
        if not self.amounts:
            raise ValueError(f"the budget names nothing; give a share of at least one of {', '.join(RESOURCES)}")
        if isinstance(self.multiple, Mapping):
            object.__setattr__(self, "multiple", dict(self.multiple))
        for value in self.multiple.values() if isinstance(self.multiple, Mapping) else [self.multiple]:
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"the budget's multiple is {value!r}; it must be a whole number, 1 or more")

    def __repr__(self) -> str:
        return f"Budget({', '.join(f'{name}={value}' for name, value in self.to_dict().items())})"

    @property
    def amounts(self) -> dict[str, float]:
        """The resources that have a budget, with what was given."""
        return {name: value for name in RESOURCES if (value := getattr(self, name)) is not None}

    def limit(self, name: str, dense: float) -> float:
        """The most that a resource may cost where the original costs ``dense``; whole for what is counted.

        The share 1/3 of 30 is 10, though the product is a rounding below it.
        """
        amount = self.amounts[name]
        most = amount * dense if amount <= 1 else amount
        return int(most * (1 + ROUNDING)) if name in COUNTED else most

    def to_dict(self) -> dict[str, Any]:
        """The amounts that were given, and the multiple."""
        return {**self.amounts, "multiple": self.multiple}

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read ``macs=0.5,size_bytes=200000,multiple=8`` or, of some groups alone, ``macs=0.5,multiple:head*=16``.

        Raises
        ------
        ValueError
            A part is not ``name=number``, or the name is unknown.
        """
        values: dict[str, Any] = {}
        multiples: dict[str, int] = {}
        for part in text.split(","):
            name, equals, number = (piece.strip() for piece in part.rpartition("="))
            kind, _, pattern = name.partition(":")
            if not equals or (name not in RESOURCES and kind != "multiple"):
                allowed = ", ".join((*RESOURCES, "multiple"))
                raise ValueError(f"the budget {part!r} is not NAME=NUMBER with a name of {allowed}; try macs=0.5")
            try:
                if kind == "multiple":
                    multiples[pattern or "*"] = int(number)
                else:
                    values[name] = float(number)
            except ValueError:
                raise ValueError(f"the budget {part!r} has no number after '='; try macs=0.5") from None
        if multiples:
            values["multiple"] = multiples["*"] if list(multiples) == ["*"] else multiples
        return cls(**values)
