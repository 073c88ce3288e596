"""Accuracy after compression without training: criteria and repairs at one set of widths, and the peers beside them.

Each network of the zoo at each share of its MACs, on all 10,000 test images, means over seeds with paired bootstrap
intervals. Peers: ``pip install torch-pruning==1.6.1 aimet-torch==2.42.0``. It takes hours, and goes on where it stopped
when it is given the same --store.

python benchmarks/accuracy.py --peers --ranks [--full vgg resnet20] [--store cells.jsonl] [--markdown] [--figure f.png]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import product
from pathlib import Path

from cells import Cell, Row, Store, markdown, summary
from peers import Aimet, TorchPruning
from tqdm.auto import tqdm
from ways import NONE, NORMS, OURS, REFINED, REPAIRS, SQUARES, Peers, Ranks, Workbench, accuracy_of, macs_of

import workbench as wb
from workbench.select import BY_NAME

TARGETS = (0.75, 0.5, 0.3, 0.2)


def grid(
    networks: Sequence[str], targets: Sequence[float], seeds: Sequence[int], full: Sequence[str], peers: bool,
    ranks: bool = False,
) -> Iterator[Cell]:  # fmt: skip
    """The cells that are asked for, what matters most first."""
    for network in networks:
        yield Cell(network, 0, 1.0, "original", NONE)
    for seed in seeds:
        for network in networks:
            for target in targets:
                yield Cell(network, seed, target, OURS, REFINED)
                yield Cell(network, seed, target, OURS, SQUARES)
    for seed in seeds if ranks else ():
        for network, method, target in product(networks, Ranks.METHODS, targets):
            yield from (Cell(network, seed, target, method, repair) for repair in (REFINED, SQUARES))
    for network in networks if peers else ():
        for target in targets:
            for method in TorchPruning.METHODS:
                yield from (Cell(network, 0, target, method, repair) for repair in (NONE, NORMS))
            yield from (Cell(network, 0, target, method, NONE) for method in Aimet.METHODS)
    for network in full:
        for seed in seeds:
            for target in targets:
                yield from (Cell(network, seed, target, method, repair) for method in BY_NAME for repair in REPAIRS)


def measure(cells: Sequence[Cell], store: Store) -> None:
    """Every cell that the store has not."""
    # a search serves all cells of a seed
    ours, low, peers = (lru_cache(1)(maker) for maker in (Workbench, Ranks, Peers))
    known = {cell.network: macs_of(wb.zoo.load(cell.network)) for cell in cells}
    for cell in tqdm(store.missing(dict.fromkeys(cells)), "cells", disable=not sys.stderr.isatty()):
        start = time.process_time()
        try:
            if cell.method == "original":
                small = wb.zoo.load(cell.network)
            else:
                maker = ours if cell.method in BY_NAME else low if cell.method in Ranks.METHODS else peers
                small = maker(cell.network, cell.seed).smaller(cell.target, cell.method, cell.repair)
        except ModuleNotFoundError:
            raise
        except Exception as error:  # a peer or a criterion that cannot: a row that says so
            store.add(cell, {"failed": f"{type(error).__name__}: {error}".splitlines()[0]})
            continue
        seconds = round(time.process_time() - start, 1)
        hits = accuracy_of(small).numpy()
        store.add(cell, {"macs_ratio": macs_of(small) / known[cell.network], "cpu_seconds": seconds}, hits)


def figure(rows: Sequence[Row], path: Path) -> None:
    """Accuracy against the share of the MACs, one panel a network."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    networks = list(dict.fromkeys(row["network"] for row in rows))
    panels = plt.subplots(1, len(networks), figsize=(3.2 * len(networks), 3.4), sharey=True, squeeze=False)[1][0]
    lines = {
        "workbench": [(OURS, REFINED)],
        "least squares alone": [(OURS, SQUARES)],
        "AIMET channel pruning": [("AIMET channel pruning", NONE)],
        "best of Torch-Pruning, BN recalibrated": [(method, NORMS) for method in TorchPruning.METHODS],
        "best of Torch-Pruning": [(method, NONE) for method in TorchPruning.METHODS],
    }
    for panel, network in zip(panels, networks, strict=True):
        for label, ways in lines.items():
            found = [
                row for row in rows
                if row["network"] == network and (row["method"], row["repair"]) in ways and "failed" not in row
            ]  # fmt: skip
            best: dict[float, Row] = {}
            for row in found:
                best[row["target"]] = max(best.get(row["target"], row), row, key=lambda row: row["accuracy"])
            points = sorted((row["macs_ratio"], 100 * row["accuracy"]) for row in best.values())
            panel.plot(*zip(*points, strict=True) if points else ((), ()), marker="o", markersize=4, label=label)
        panel.set(title=network, xlabel="share of the MACs", xlim=(0.1, 0.8), ylim=(0, 100))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("test accuracy, %")
    panels[0].figure.legend(*panels[0].get_legend_handles_labels(), loc="lower center", ncols=3, frameon=False)
    panels[0].figure.tight_layout(rect=(0, 0.14, 1, 1))
    panels[0].figure.savefig(path, dpi=150)
    plt.close(panels[0].figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print JSON or a table, and keep the JSON and the figure where asked."""
    parser = argparse.ArgumentParser(
        description="Accuracy of the zoo's networks after compression without training, on all 10,000 test images."
    )
    parser.add_argument("--networks", nargs="+", choices=wb.zoo.NAMES, default=wb.zoo.NAMES, metavar="NAME",
                        help=f"of {', '.join(wb.zoo.NAMES)} (default: all)")  # fmt: skip
    parser.add_argument("--targets", nargs="+", type=float, default=TARGETS, metavar="SHARE",
                        help=f"shares of the MACs to keep (default: {' '.join(map(str, TARGETS))})")  # fmt: skip
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2), metavar="SEED",
                        help="of the rows drawn from the calibration data (default: 0 1 2)")  # fmt: skip
    parser.add_argument("--peers", action="store_true", help="measure Torch-Pruning and AIMET, too")
    parser.add_argument("--ranks", action="store_true", help="measure lower ranks, too, alone and with channels")
    parser.add_argument("--full", nargs="+", choices=wb.zoo.NAMES, default=(), metavar="NAME",
                        help="networks on which every criterion meets every repair")  # fmt: skip
    parser.add_argument("--store", type=Path, help="a file that keeps each cell as it is measured, to go on from")
    parser.add_argument("--markdown", action="store_true", help="print a table of the points lost instead of JSON")
    parser.add_argument("--out", type=Path, help="write the JSON to this file, too")
    parser.add_argument("--figure", type=Path, help="draw accuracy against the share of the MACs")
    given = parser.parse_args(arguments)
    try:
        store = Store(given.store, "accuracy")
        measure(list(grid(given.networks, given.targets, given.seeds, given.full, given.peers, given.ranks)), store)
    except (ValueError, ModuleNotFoundError) as error:  # another's store; a peer that is not installed
        parser.error(str(error))
    rows = summary(store)
    document = json.dumps({"benchmark": "accuracy", "rows": rows}, indent=1)
    if given.out:
        given.out.write_text(document + "\n")
    if given.figure:
        figure(rows, given.figure)
    print(markdown(rows) if given.markdown else document)


if __name__ == "__main__":
    main()
