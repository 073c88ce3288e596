"""What comes of a conversion."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from workbench.sparsify.recipe_file import Program


@dataclass(frozen=True)
class Converted:
    """A program, and what of the original it does not do: ``left_out`` has one sentence for each."""

    program: Program
    left_out: tuple[str, ...] = ()


@dataclass
class Entry:
    """The fields of one modifier or configuration, taken one by one; those that nobody took are left out."""

    name: str
    fields: dict[str, Any]
    left_out: list[str] = field(default_factory=list)

    def take(self, name: str, default: Any = None) -> Any:
        """The value of a field."""
        return self.fields.pop(name, default)

    def number(self, name: str, default: float | None = None) -> float:
        """A field that holds a number.

        Raises
        ------
        ValueError
            It holds something else.
        """
        value = self.take(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name} is {value!r}, and must be a number; evaluate it first")
        return value

    def choice(self, name: str, default: str, known: Mapping[str, Any]) -> Any:
        """What one of some names stands for.

        Raises
        ------
        ValueError
            It is none of them.
        """
        value = self.take(name, default)
        if not isinstance(value, str) or value not in known:
            raise ValueError(f"{name} {value!r} has no equal here; those with one are {', '.join(known)}")
        return known[value]

    def drop(self, why: str) -> None:
        """Something is not done."""
        self.left_out.append(f"{self.name}: {why}")

    def rest(self) -> None:
        """All fields that nobody took are left out."""
        for name, value in self.fields.items():
            if value is not None:
                self.drop(f"{name} = {value!r} has no equal here")


def converted(entry: Entry, convert: Callable[[Entry], list[Any]]) -> list[Any]:
    """The stages of one entry; none, with the reason among what is left out, where it cannot be had."""
    try:
        stages = convert(entry)
    except ValueError as error:
        entry.drop(str(error))
        return []
    entry.rest()
    return stages
