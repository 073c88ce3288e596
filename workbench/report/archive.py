"""The result itself, embedded in the page so that it can be saved from there."""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Mapping
from typing import Any


def pack(result: Mapping[str, Any]) -> dict[str, str]:
    """The result as two texts that can stand in HTML: ``data`` (deflate, base64) and ``run`` (JSON).

    ``run`` is apart because it is the part of a page that is not compared. The page turns both back into one JSON text.
    Lists of alike dicts stand as columns, which deflate better, and floats have seven significant digits, more than
    any interval supports: otherwise this copy would be half of the page.

    Raises:
        ValueError: if a number is NaN or infinite, which JSON cannot hold.

    Example:
        >>> sorted(pack({"format": 1, "run": {}}))
        ['data', 'run']
    """
    rest = {key: value for key, value in result.items() if key != "run"}
    return {
        "data": base64.b64encode(zlib.compress(_json(_columns(rest)).encode(), 9)).decode(),
        # `<` occurs in JSON strings only, where this is the same character: no name can close the script element.
        "run": _json(result["run"]).replace("<", "\\u003c"),
    }


def _columns(value: Any) -> Any:
    """The value with each list of dicts as ``{"": keys, "rows": columns}``: the empty key marks it."""
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else value
    if isinstance(value, Mapping):
        return {key: _columns(inner) for key, inner in value.items()}
    if not isinstance(value, (list, tuple)):
        return value
    if value and all(isinstance(row, Mapping) and row and row.keys() == value[0].keys() for row in value):
        return {"": list(value[0]), "rows": [_columns([row[key] for row in value]) for key in value[0]]}
    return [_columns(inner) for inner in value]


def _json(value: Any) -> str:
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except ValueError as error:
        raise ValueError(
            f"the result holds a number that JSON cannot ({error}); write None for a number that is not known"
        ) from error
