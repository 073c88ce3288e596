"""Files that are whole or not there, whatever stops the process that writes them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path beside the given one to write to; renamed to it at the end, removed where writing fails."""
    beside = path.with_name(f".{path.name}.part")
    try:
        yield beside
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """A whole file of UTF-8 with plain line ends."""
    with whole_file(path) as beside:
        beside.write_text(text, encoding="utf-8", newline="\n")
