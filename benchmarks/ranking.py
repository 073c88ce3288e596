"""How well predicted losses rank measured ones: Spearman's correlation, and within each share across layers.

Predicted is what ``sensitivity("predicted")`` says, with no candidate evaluated; measured is the KL divergence from the
original's output on all search images. Beside it "share removed" (which knows no layer) and the two errors that the
prediction is made of.

python benchmarks/ranking.py [--networks vgg resnet20] [--out ranking.json]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

import workbench as wb
from workbench.evaluation import Fidelity
from workbench.sensitivity import Search
from workbench.zoo import task

FEWEST = 4  # layers at a share, below which a rank says nothing


def measure(network: str) -> dict[str, Any]:
    """The correlations of one network."""
    study = task.study(network)
    images, _ = wb.data.fashion_mnist("search")
    search = Search(study.graph, study.statistics, Fidelity(images.split(250)))
    for _ in range(search.sample.blocks if search.sample else 1):
        search.measure([(group, kept) for group, widths in search.widths.items() for kept in widths])
    points = [(curve, point) for curve in search.curves() for point in curve.points]
    gone = [(curve.path, curve.units - point.kept) for curve, point in points]
    ways = {
        "predicted": [curve.expected_at(point.kept) for curve, point in points],
        "output error": [path.errors[count] for path, count in gone],
        "Fisher information": [path.losses[count] for path, count in gone],
        "share removed": [1 - point.share for _, point in points],
    }
    loss, share = (np.array(values) for values in zip(*((p.degradation, round(p.share, 1)) for _, p in points),
                                                      strict=True))  # fmt: skip
    return {"network": network, "points": len(points)} | {
        way: {"all": _rank(np.array(values), loss), "within a share": _within(np.array(values), loss, share)}
        for way, values in ways.items()
    }


def _rank(values: np.ndarray, loss: np.ndarray) -> float:
    return round(float(spearmanr(values, loss)[0]), 3)


def _within(values: np.ndarray, loss: np.ndarray, share: np.ndarray) -> list[float]:
    places = [share == one for one in np.unique(share)]
    return [_rank(values[some], loss[some]) for some in places if some.sum() >= FEWEST and np.ptp(values[some]) > 0]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description="Rank correlation of predicted and measured losses on the zoo.")
    parser.add_argument("--networks", nargs="+", choices=wb.zoo.NAMES, default=wb.zoo.NAMES, metavar="NAME",
                        help=f"of {', '.join(wb.zoo.NAMES)} (default: all)")  # fmt: skip
    parser.add_argument("--out", type=Path, help="write the JSON to this file, too")
    given = parser.parse_args(arguments)
    rows = [measure(network) for network in given.networks]
    versions = {package: version(package) for package in ("workbench", "torch")}
    document = json.dumps({"benchmark": "ranking", "versions": versions, "rows": rows}, indent=1)
    if given.out:
        given.out.write_text(document + "\n")
    print(document)


if __name__ == "__main__":
    main()
