"""Measured cells of a grid, one JSON line each: what was measured once is not measured again."""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]
RESAMPLES = 2000


@dataclass(frozen=True, order=True)
class Cell:
    """One network, made smaller in one way."""

    network: str
    seed: int
    target: float
    method: str
    repair: str


class Store:
    """A file of cells that grows line by line; without a path it is kept in memory alone.

    Raises
    ------
    ValueError
        The file was written by other versions, or with other settings.
    """

    def __init__(self, path: Path | None = None, benchmark: str = "accuracy", **settings: Any):
        self.path = path
        self.rows: dict[Cell, Row] = {}
        versions = {name: version(name) for name in ("workbench", "torch")}
        head = {"benchmark": benchmark, "versions": versions, **settings}
        lines = path.read_text().splitlines() if path and path.exists() else []
        if not lines:
            self._write(head)
        elif json.loads(lines[0]) != head:
            raise ValueError(f"{path} was measured as {lines[0]}, this is {json.dumps(head)}; give another --store")
        for row in map(json.loads, lines[1:]):
            self.rows[Cell(**{name: row.pop(name) for name in Cell.__dataclass_fields__})] = row

    def add(self, cell: Cell, row: Row, hits: np.ndarray | None = None) -> None:
        """Keep what was measured, with which samples were right, bool ``[samples]``."""
        if hits is not None:
            bits = base64.b64encode(np.packbits(hits.astype(bool))).decode()
            row = row | {"accuracy": float(hits.mean()), "samples": len(hits), "hits": bits}
        self.rows[cell] = row
        self._write(asdict(cell) | row)

    def missing(self, cells: Iterable[Cell]) -> list[Cell]:
        """Those that are not measured yet."""
        return [cell for cell in cells if cell not in self.rows]

    def _write(self, line: Row) -> None:
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")


def hits_of(row: Row) -> np.ndarray:
    """Which samples were right, as 0 and 1."""
    return np.unpackbits(np.frombuffer(base64.b64decode(row["hits"]), np.uint8))[: row["samples"]]


def summary(store: Store) -> list[Row]:
    """One row a network, target, method and repair: the means over the seeds.

    ``loss`` is in points of accuracy against the original; ``interval`` bounds its mean by a paired bootstrap over the
    test samples, 95 %.
    """
    original = {cell.network: hits_of(row) for cell, row in store.rows.items() if cell.method == "original"}
    found: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for cell, row in store.rows.items():
        if cell.method != "original":
            network, _, *place = astuple(cell)
            found[network, *place].append(row)
    return [
        dict(zip(("network", "target", "method", "repair"), place, strict=True)) | _mean(rows, original[place[0]])
        for place, rows in found.items()
    ]


def _mean(rows: Sequence[Row], original: np.ndarray) -> Row:
    failed = [row["failed"] for row in rows if "failed" in row]
    if failed:
        return {"seeds": len(rows), "failed": failed[0]}
    lost = np.mean([original.astype(float) - hits_of(row) for row in rows], axis=0)
    draws = np.random.default_rng(0)
    means = [lost[draws.integers(len(lost), size=len(lost))].mean() for _ in range(RESAMPLES)]
    return {
        "seeds": len(rows), "macs_ratio": max(row["macs_ratio"] for row in rows),
        "accuracy": float(np.mean([row["accuracy"] for row in rows])), "original": float(original.mean()),
        "loss": 100 * float(lost.mean()), "interval": [100 * float(q) for q in np.quantile(means, (0.025, 0.975))],
        "cpu_seconds": float(np.mean([row["cpu_seconds"] for row in rows])),
    }  # fmt: skip
