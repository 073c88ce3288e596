"""Reading JSON that anybody may have written: one sentence for whatever is wrong with it."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

LARGEST = 1 << 28  # bytes of a JSON file


def read_object(path: Path, remedy: str, largest: int = LARGEST) -> dict[str, Any]:
    """The object in a JSON file: finite numbers, no key twice.

    Parameters
    ----------
    path : the file
    remedy : what can be done, for the message
    largest : bytes that it may have

    Raises
    ------
    ValueError
        It holds something else; the message names the file.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is no file")
        if status.st_size > largest:
            raise ValueError(f"it has {status.st_size:,} bytes, {largest:,} are the most")
        data = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_distinct, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{path} is damaged ({why}); {remedy}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} is damaged (it holds no object); {remedy}")
    return data


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice")
    return found


def _constant(name: str) -> float:
    raise ValueError(f"it holds {name}, which is no number")
