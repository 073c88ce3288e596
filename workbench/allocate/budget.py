"""What a user asks for: at most this share of the original's cost, in widths of this multiple."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

RESOURCES = ("macs", "params")


@dataclass(frozen=True)
class Budget:
    """Shares of the original model's cost, in (0, 1]; several hold together.

    Parameters
    ----------
    macs : multiply-accumulates
    params : parameters
    multiple : widths are multiples of this, or whole

    Raises
    ------
    ValueError
        A share is not in (0, 1], no share is given, or the multiple is not a positive integer.

    Examples
    --------
    >>> Budget(macs=0.5, multiple=8)
    Budget(macs=0.5, multiple=8)
    """

    macs: float | None = None
    params: float | None = None
    multiple: int = 1

    def __post_init__(self) -> None:
        for name, share in self.shares.items():
            number = isinstance(share, int | float) and not isinstance(share, bool)
            if not number or not math.isfinite(share) or not 0 < share <= 1:
                raise ValueError(
                    f"the budget {name}={share!r} is not a share of the original; give a number above 0 and at most 1: "
                    "0.5 keeps half"
                )
        if not self.shares:
            raise ValueError(f"the budget names nothing; give a share of at least one of {', '.join(RESOURCES)}")
        if not isinstance(self.multiple, int) or self.multiple < 1:
            raise ValueError(f"the budget's multiple is {self.multiple!r}; it must be a whole number, 1 or more")

    def __repr__(self) -> str:
        return f"Budget({', '.join(f'{name}={value}' for name, value in self.to_dict().items())})"

    @property
    def shares(self) -> dict[str, float]:
        """The resources that have a budget."""
        values: Mapping[str, Any] = asdict(self)
        return {name: values[name] for name in RESOURCES if values[name] is not None}

    def to_dict(self) -> dict[str, Any]:
        """The shares that were given, and the multiple."""
        return {**self.shares, "multiple": self.multiple}

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read ``macs=0.5,params=0.6,multiple=8``.

        Raises
        ------
        ValueError
            A part is not ``name=number``, or the name is unknown.
        """
        values: dict[str, Any] = {}
        for part in text.split(","):
            name, equals, number = (piece.strip() for piece in part.partition("="))
            if not equals or name not in (*RESOURCES, "multiple"):
                allowed = ", ".join((*RESOURCES, "multiple"))
                raise ValueError(f"the budget {part!r} is not NAME=NUMBER with a name of {allowed}; try macs=0.5")
            try:
                values[name] = int(number) if name == "multiple" else float(number)
            except ValueError:
                raise ValueError(f"the budget {part!r} has no number after '='; try macs=0.5") from None
        return cls(**values)
