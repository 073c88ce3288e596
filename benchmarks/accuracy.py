"""Accuracy after compression without training: each network of the zoo at each share of its MACs.

python benchmarks/accuracy.py [--networks vgg resnet20] [--targets 0.5 0.3] [--markdown] [--out accuracy.json]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import workbench as wb
from workbench.zoo import task

Row = dict[str, Any]
TARGETS = (0.5, 0.3)


def measure(networks: Sequence[str], targets: Sequence[float], seed: int, *, progress: bool = False) -> dict[str, Any]:
    """One row a network and target; a target that no plan reaches is a row that says so."""
    rows = [row for name in networks for row in _rows(name, targets, seed, progress)]
    versions = {package: version(package) for package in ("workbench", "torch")}
    return {"benchmark": "accuracy", "seed": seed, "versions": versions, "rows": rows}


def _rows(name: str, targets: Sequence[float], seed: int, progress: bool) -> list[Row]:
    study = task.study(name, seed=seed, progress=progress)
    start = time.process_time()
    study.sensitivity()
    searched = time.process_time() - start
    rows = []
    for target in targets:
        start = time.process_time()
        try:
            result = study.compress(wb.Budget(macs=target))
        except wb.Unreachable as error:
            rows.append({"network": name, "target": target, "failed": str(error)})
            continue
        rows.append({
            "network": name, "target": target,
            "macs_ratio": result.ratio["macs"], "params_ratio": result.ratio["params"],
            "before": result.score.before, "after": result.score.after, "interval": result.score.interval,
            "verified": result.verification.ok, "search_cpu_seconds": round(searched, 1),
            "compress_cpu_seconds": round(time.process_time() - start, 1),
        })  # fmt: skip
    return rows


def markdown(rows: Sequence[Row]) -> str:
    """One line a network, one column a target: accuracy and the points lost."""
    targets = list(dict.fromkeys(row["target"] for row in rows))
    lines = [["network", "original", *(f"{target:.0%} of the MACs" for target in targets)]]
    lines.append(["---", *("---:" for _ in range(1 + len(targets)))])
    for name in dict.fromkeys(row["network"] for row in rows):
        own = [row for row in rows if row["network"] == name]
        original = next((f"{row['before']:.2%}" for row in own if "before" in row), "")
        lines.append([name, original, *map(_cell, own)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(row: Row) -> str:
    if "failed" in row:
        return "not reachable"
    return f"{row['after']:.2%} ({100 * (row['after'] - row['before']):+.2f})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print JSON or a table, and keep the JSON where asked."""
    parser = argparse.ArgumentParser(
        description="Accuracy of the zoo's networks after compression without training, on all 10,000 test images."
    )
    parser.add_argument("--networks", nargs="+", choices=wb.zoo.NAMES, default=wb.zoo.NAMES, metavar="NAME",
                        help=f"of {', '.join(wb.zoo.NAMES)} (default: all)")  # fmt: skip
    parser.add_argument("--targets", nargs="+", type=float, default=TARGETS, metavar="SHARE",
                        help=f"shares of the MACs to keep (default: {' '.join(map(str, TARGETS))})")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of the rows drawn from the calibration data (default 0)")
    parser.add_argument("--markdown", action="store_true", help="print a table instead of JSON")
    parser.add_argument("--out", type=Path, help="write the JSON to this file, too")
    given = parser.parse_args(arguments)
    found = measure(given.networks, given.targets, given.seed, progress=sys.stderr.isatty())
    document = json.dumps(found, indent=1)
    if given.out:
        given.out.write_text(document + "\n")
    print(markdown(found["rows"]) if given.markdown else document)


if __name__ == "__main__":
    main()
