"""The store: what a search has finished, one line each, so that killed at any moment it loses nothing.

A JSON Lines file. The first line says what the scores belong to; each further one holds the scores of one candidate on
one block of samples, and is on the disk before the search goes on. A last line that was torn is dropped.
"""

from __future__ import annotations

import json
import math
import os
import stat
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from workbench.sensitivity.ledger import Ledger, Unit
from workbench.sensitivity.run import Scores

FORMAT = 2
NAME = "search.jsonl"


class Store(Ledger):
    """A ledger in a file that is only ever added to.

    Parameters
    ----------
    folder : where ``search.jsonl`` lies, or will
    belongs : what the scores depend on, by a name for people: fingerprints of model, data and evaluation, the method

    Raises
    ------
    ValueError
        The file belongs to something else; the message says to what.
    OSError
        It cannot be read or written.
    """

    def __init__(self, folder: str | os.PathLike[str], belongs: Mapping[str, str]):
        super().__init__()
        self.path = Path(folder) / NAME
        header = {"format": str(FORMAT), **belongs}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = self.path.open("a+b", buffering=0)
            weakref.finalize(self, self.file.close)
            if not stat.S_ISREG(os.fstat(self.file.fileno()).st_mode):
                raise ValueError(f"the store {self.path} is no file; give another store=")
            _locked(self.file, self.path)
            lines = [_read(line, number, self.path) for number, line in enumerate(self._whole_lines(), 1)]
            if lines:
                _same(lines[0], header, self.path)
            else:
                self._write(header)
        except OSError as error:
            raise self._error(error) from error
        for unit in lines[1:]:
            scores = unit["failed"] if "failed" in unit else np.array(unit["scores"], float)
            super().add((tuple(unit["kept"].items()), unit["block"]), scores)

    def _whole_lines(self) -> list[bytes]:
        """All lines; what a crash has left of one more is cut off."""
        self.file.seek(0)
        content = self.file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            self.file.truncate(whole)
        return content[:whole].splitlines()

    def close(self) -> None:
        """Let another search have the file."""
        self.file.close()

    def add(self, unit: Unit, scores: Scores) -> None:
        """Keep what was finished; on the disk when this returns."""
        widths, block = unit
        line: dict[str, Any] = {"kept": dict(widths), "block": block}
        line |= {"failed": scores} if isinstance(scores, str) else {"scores": scores.tolist()}
        try:
            self._write(line)
        except OSError as error:
            raise self._error(error) from error
        super().add(unit, scores)

    def told(self) -> str:
        """How what is finished can be used again."""
        return (
            f"{len(self)} scores are finished and kept in {self.path}; the same search with this store= goes on there"
        )

    def _write(self, line: Mapping[str, Any]) -> None:
        data = json.dumps(line).encode() + b"\n"
        file = self.file.fileno()
        before = os.fstat(file).st_size
        try:
            while data:
                data = data[os.write(file, data) :]
            os.fsync(file)
        except OSError:
            with suppress(OSError):  # half a line is none
                os.ftruncate(file, before)
            raise

    def _error(self, error: OSError) -> OSError:
        kept = f"; the {len(self)} finished scores in it are kept" if self.found else ""
        return type(error)(
            error.errno, f"the store {self.path} cannot be used: {error.strerror or error}{kept}; mend that, or give "
            "another store=, and run again",
        )  # fmt: skip


def _read(line: bytes, number: int, path: Path) -> dict[str, Any]:
    try:
        unit = json.loads(line)
        if not isinstance(unit, dict) or (number > 1 and not _is_unit(unit)):
            raise TypeError("it holds something else")
        return unit
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise ValueError(
            f"line {number} of the store {path} is damaged ({type(error).__name__}); delete that line to measure its "
            "point again, or give another store="
        ) from error


def _is_unit(unit: dict[str, Any]) -> bool:
    """Whether it holds the scores of a candidate on a block, or why there are none."""
    kept, scores = unit.get("kept"), unit.get("scores")
    if not isinstance(kept, dict) or type(unit.get("block")) is not int:
        return False
    if not all(type(width) is int for width in kept.values()):
        return False
    if "failed" in unit:
        return isinstance(unit["failed"], str)
    return isinstance(scores, list) and all(type(one) in (int, float) and math.isfinite(one) for one in scores)


def _same(found: Mapping[str, str], wanted: Mapping[str, str], path: Path) -> None:
    different = [name for name in (*wanted, *found) if found.get(name) != wanted.get(name)]
    if different:
        name = different[0]
        raise ValueError(
            f"the store {path} belongs to another {name}: {found.get(name, 'none')} there, {wanted.get(name, 'none')} "
            "here; give another store=, or delete this one"
        )


def _locked(file: Any, path: Path) -> None:
    """Held until the file is closed, so that no two searches write to one store."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"the store {path} is in use by another search; wait for it, or give another store=") from None
