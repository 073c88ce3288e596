"""What is wrong with a file: each fault with its place, its value, what is allowed and what may have been meant."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

LONGEST = 60  # characters of a value that is shown


class Faulty(ValueError):
    """A file that cannot be used, with all that is wrong in it. ``what`` is what people call such a file."""

    what = "file"

    def __init__(self, source: str, faults: Sequence[str]):
        self.faults = tuple(faults)
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        lines = [f"{source} has {count}, nothing was started:", *(f"  {fault}" for fault in faults)]
        super().__init__("\n".join(lines))


class Strict(BaseModel):
    """No field but those that are named, no value that would have to be converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


@dataclass(frozen=True)
class Layout:
    """What a kind of file may hold: what is ``allowed`` in each field, by its name, and the fields of a table, by the
    names that lead to one of them."""

    allowed: Mapping[str, str]
    fields: Callable[[Sequence[str]], list[str]]

    @classmethod
    def of(cls, models: Sequence[type[Strict]], fields: Callable[[Sequence[str]], list[str]]) -> Layout:
        """From the models of all its tables, no two of which share a field's name, and the fields' descriptions."""
        return cls({name: str(f.description) for model in models for name, f in model.model_fields.items()}, fields)


def shown(value: Any) -> str:
    """A value as one line, not too long."""
    text = f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else repr(value)
    text = "".join(sign if sign.isprintable() else "?" for sign in text)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def meant(value: object, names: Iterable[str]) -> str:
    """``; did you mean "x"?`` where a name is near."""
    near = get_close_matches(str(value)[:100], list(filter(None, names)), 1)
    return f'; did you mean "{near[0]}"?' if near else ""


def faults_of(error: ValidationError, data: Mapping[str, Any], layout: Layout) -> list[str]:
    """One sentence a fault, in the file's order."""
    return [_fault(one, data, layout) for one in error.errors(include_url=False, include_context=True)]


def _fault(error: Any, data: Any, layout: Layout) -> str:
    path, field, tables = "", "", ["", *(part for part in error["loc"] if isinstance(part, str))]
    for part in error["loc"]:
        if isinstance(part, int):
            if not isinstance(data, list):  # one value that stands for a list
                continue
            path, data = f"{path}[{part}]", data[part]
        else:
            path, field = (f"{path}.{part}" if path else part), part
            data = data.get(part) if isinstance(data, Mapping) else None
    kind = error["type"]
    if kind == "extra_forbidden":
        fields = layout.fields(tables)
        near = meant(field, fields) or f"; allowed are {', '.join(fields)}"
        return f"{path}: there is no such field{near}"
    if kind == "missing":
        return f"{path}: is missing; give {layout.allowed[field]}"
    if kind == "value_error":
        return f"{path}: {str(error['msg']).removeprefix('Value error, ')}"
    what = layout.allowed.get(field, "a table")
    choices = str(error.get("ctx", {}).get("expected", "")).replace("'", "").replace(" or ", ", ").split(", ")
    return f"{path}: is {shown(data)}, which is not allowed; give {what}{meant(data, choices)}"
