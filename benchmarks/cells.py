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
    return {
        "seeds": len(rows), "macs_ratio": max(row["macs_ratio"] for row in rows),
        "accuracy": float(np.mean([row["accuracy"] for row in rows])), "original": float(original.mean()),
        "loss": 100 * float(lost.mean()), "interval": interval(lost),
        "cpu_seconds": float(np.mean([row["cpu_seconds"] for row in rows])),
    }  # fmt: skip


def lead(store: Store, network: str, target: float, methods: Sequence[str], peers: Sequence[str]) -> Row:
    """How many points the best of some methods is right more often than the best of their peers, with its interval."""
    hits = {name: _hits(store, network, target, name) for name in (*methods, *peers)}
    known = {name: found for name, found in hits.items() if found is not None}
    if not known.keys() & set(methods) or not known.keys() & set(peers):
        return {"network": network, "target": target, "failed": "there are none to compare"}
    method, peer = (max(known.keys() & set(names), key=lambda name: known[name].mean()) for names in (methods, peers))
    ours, theirs = known[method], known[peer]
    return {
        "network": network, "target": target, "method": method, "peer": peer,
        "points": 100 * float((ours - theirs).mean()), "interval": interval(ours - theirs),
    }  # fmt: skip


def _hits(store: Store, network: str, target: float, method: str) -> np.ndarray | None:
    """The mean over the seeds for each sample; None where nothing was made."""
    found = [
        hits_of(row) for cell, row in store.rows.items()
        if (cell.network, cell.target, cell.method) == (network, target, method) and "failed" not in row
    ]  # fmt: skip
    return np.mean(found, axis=0) if found else None


def interval(values: np.ndarray) -> list[float]:
    """Of the mean, in points: 95 % by a bootstrap over the samples."""
    draws = np.random.default_rng(0)
    means = [values[draws.integers(len(values), size=len(values))].mean() for _ in range(RESAMPLES)]
    return [100 * float(q) for q in np.quantile(means, (0.025, 0.975))]


def markdown(rows: Sequence[Row]) -> str:
    """One line a network, method and repair, one column a target with the points of accuracy lost."""
    targets = sorted({row["target"] for row in rows}, reverse=True)
    lines = [["network", "method", "repair", *(f"{target:.0%} of the MACs" for target in targets)]]
    lines.append(["---", "---", "---", *("---:" for _ in targets)])
    for place in sorted({_place(row) for row in rows}, key=[_place(row) for row in rows].index):
        found = {row["target"]: row for row in rows if _place(row) == place}
        lines.append([*place, *(_cell(found.get(target)) for target in targets)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _place(row: Row) -> tuple[str, str, str]:
    return row["network"], row["method"], row["repair"]


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    if "failed" in row:
        return "failed"
    low, high = row["interval"]
    delivered = "" if row["macs_ratio"] > row["target"] - 0.015 else f" at {row['macs_ratio']:.0%}"
    return f"{-row['loss']:+.2f} [{-high:+.2f}, {-low:+.2f}]{delivered}"
