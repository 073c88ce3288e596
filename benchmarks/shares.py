"""Which layers should lose weights? The zoo's networks, sparse without training, by three ways to share out the zeros.

Accuracy on all 10,000 test images, which choose nothing: every layer the same, OWL's shares, the exact allocator's.

python benchmarks/shares.py [--networks resnet20] [--amounts 0.8 0.9] [--store cells.jsonl] [--markdown]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cells import Cell, Row, Store, hits_of
from tqdm.auto import tqdm
from ways import accuracy_of

import workbench as wb
from workbench import sparsify as sp

IMAGES = 512
Way = Callable[..., sp.Shares | float]
WAYS: dict[str, Way] = {
    "every layer the same": lambda _graph, amount, **_: amount, "owl": sp.owl, "by_sensitivity": sp.by_sensitivity,
}  # fmt: skip


def measure(cells: Sequence[Cell], store: Store) -> None:
    """Every cell that the store has not."""
    images = wb.data.fashion_mnist("calibration")[0][:IMAGES]
    for cell in tqdm(store.missing(cells), "cells", disable=not sys.stderr.isatty()):
        start, model, row = time.process_time(), wb.zoo.load(cell.network), {"sparsity": 0.0}
        if cell.method != "original":
            graph = wb.trace(model, images[:2])
            shares = WAYS[cell.method](graph, cell.target, calibration=images)
            pruned = sp.prune_layerwise(graph, shares, calibration=images)
            model, row = pruned.model, {"sparsity": pruned.sparsity}
        store.add(cell, row | {"cpu_seconds": round(time.process_time() - start, 1)}, accuracy_of(model).numpy())


def markdown(rows: Sequence[Row]) -> str:
    """One line a network and way, one column an amount."""
    amounts = sorted({row["amount"] for row in rows})
    lines = [["network", "shares", *(f"{amount:.0%} zeros" for amount in amounts)]]
    lines.append(["---", "---", *("---:" for _ in amounts)])
    for network, method in dict.fromkeys((row["network"], row["method"]) for row in rows):
        found = {row["amount"]: row for row in rows if (row["network"], row["method"]) == (network, method)}
        lines.append([network, method, *(f"{found[one]['accuracy']:.2%}" if one in found else "" for one in amounts)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print JSON or a table."""
    parser = argparse.ArgumentParser(description="Accuracy of the zoo's networks, sparse without training.")
    parser.add_argument("--networks", nargs="+", choices=wb.zoo.NAMES, default=["resnet20"], metavar="NAME",
                        help=f"of {', '.join(wb.zoo.NAMES)} (default: resnet20)")  # fmt: skip
    parser.add_argument("--amounts", nargs="+", type=float, default=[0.8, 0.9], help="default: 0.8 0.9")
    parser.add_argument("--store", type=Path, help="a file that keeps each cell as it is measured, to go on from")
    parser.add_argument("--markdown", action="store_true", help="print a table instead of JSON")
    given = parser.parse_args(arguments)
    cells = [Cell(network, 0, 0.0, "original", "") for network in given.networks]
    cells += [Cell(network, 0, a, way, "") for network in given.networks for a in given.amounts for way in WAYS]
    try:
        store = Store(given.store, "shares", images=IMAGES)
        measure(cells, store)
    except ValueError as error:  # another's store
        parser.error(str(error))
    rows = [
        {"network": c.network, "method": c.method, "amount": c.target, "sparsity": store.rows[c]["sparsity"],
         "accuracy": float(hits_of(store.rows[c]).mean())} for c in cells
    ]  # fmt: skip
    print(markdown(rows) if given.markdown else json.dumps({"benchmark": "shares", "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
