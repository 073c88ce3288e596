"""What the exact allocation is worth: the same curves, three solvers, the accuracy of what comes out.

Beside the zoo's networks one whose layers differ: its vgg with the second stage three times as wide, each channel
thrice, so that it computes the same. Every point of the curves is measured once; channels alone leave, the repair is
least squares alone. Accuracy on all 10,000 test images, differences with paired 95 % intervals.

python benchmarks/solvers.py [--networks vgg] [--targets 0.5 0.3 0.2] [--store cells.jsonl] [--markdown]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from cells import Cell, Row, Store, hits_of, interval
from torch import nn
from tqdm.auto import tqdm
from ways import accuracy_of

import workbench as wb
from workbench.allocate import Exact, Greedy, Solver, Uniform
from workbench.methods import CHANNELS
from workbench.zoo import task
from workbench.zoo.vgg import VGG

SOLVERS: dict[str, Solver] = {"exact": Exact(), "greedy": Greedy(), "uniform": Uniform()}
WIDER = "vgg, second stage three times as wide"
TIMES = (1, 1, 3, 3, 1, 1)


@torch.no_grad()
def wider() -> VGG:
    """The zoo's vgg with its channels so many times, of which each reader takes the mean."""
    small = wb.zoo.load("vgg")
    convolutions = [module for module in small.features if isinstance(module, nn.Conv2d)]
    widths = [module.out_channels for module in convolutions]
    large = VGG(tuple(width * times for width, times in zip(widths, TIMES, strict=True)))  # type: ignore[arg-type]
    large.classifier = small.classifier
    copies, before = torch.zeros(1, dtype=torch.long), 1
    for given, made in zip(small.features, large.features, strict=True):
        if isinstance(given, nn.Conv2d):
            place = convolutions.index(given)
            came, copies = copies, torch.arange(given.out_channels).repeat(TIMES[place])
            made.weight.copy_(given.weight[copies][:, came] / before)
            made.bias.copy_(given.bias[copies])
            before = TIMES[place]
        elif isinstance(given, nn.BatchNorm2d):
            made.load_state_dict({name: v[copies] if v.ndim else v for name, v in given.state_dict().items()})
    return large.eval()


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **{name: lambda name=name: wb.zoo.load(name) for name in wb.zoo.NAMES}, WIDER: wider,
}  # fmt: skip


def measure(cells: Sequence[Cell], store: Store) -> None:
    """Every cell that the store has not."""
    studies: dict[str, wb.Study] = {}
    for cell in tqdm(store.missing(cells), "cells", disable=not sys.stderr.isatty()):
        if cell.network not in studies:
            images = wb.data.fashion_mnist("calibration")[0]
            studies[cell.network] = wb.Study(
                NETWORKS[cell.network](), images[:1], calibration=images.split(128), evaluate=task.search_score(),
                methods=CHANNELS, refinement=None,
            )  # fmt: skip
            studies[cell.network].sensitivity("measured")
        study, start = studies[cell.network], time.process_time()
        plan = study.allocate(wb.Budget(macs=cell.target), SOLVERS[cell.method])
        result = study.compress(plan)
        row = {"macs_ratio": result.ratio["macs"], "predicted": plan.degradation}
        row["cpu_seconds"] = round(time.process_time() - start, 1)
        store.add(cell, row, accuracy_of(result.model).numpy())


def compared(cells: Sequence[Cell], store: Store) -> list[Row]:
    """One row a cell, with how many points the exact plan of its network and target is right more often."""
    rows: list[Row] = []
    for cell in cells:
        mine, exact = (
            hits_of(store.rows[Cell(cell.network, 0, cell.target, method, "least squares")]).astype(float)
            for method in (cell.method, "exact")
        )
        rows.append(
            {"network": cell.network, "target": cell.target, "solver": cell.method, "accuracy": float(mine.mean()),
             "macs_ratio": store.rows[cell]["macs_ratio"], "predicted": store.rows[cell]["predicted"],
             "exact_leads": 100 * float((exact - mine).mean()), "interval": interval(exact - mine)}
        )  # fmt: skip
    return rows


def markdown(rows: Sequence[Row]) -> str:
    """One line a network and target, one column a solver."""
    lines: list[list[str]] = [["network", "MACs", *SOLVERS], ["---", "---:", *("---:" for _ in SOLVERS)]]
    for network, target in dict.fromkeys((row["network"], row["target"]) for row in rows):
        found: dict[str, Any] = {
            row["solver"]: row for row in rows if (row["network"], row["target"]) == (network, target)
        }
        lines.append([network, f"{target:.0%}", *(_cell(found[name]) for name in SOLVERS)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(row: Row) -> str:
    if row["solver"] == "exact":
        return f"{row['accuracy']:.2%}"
    low, high = row["interval"]
    return f"{-row['exact_leads']:+z.2f} [{-high:+z.2f}, {-low:+z.2f}]"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print JSON or a table."""
    parser = argparse.ArgumentParser(description="Accuracy under the exact, the greedy and the uniform allocation.")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NAME",
                        help=f"of {', '.join(map(repr, NETWORKS))} (default: all)")  # fmt: skip
    parser.add_argument("--targets", nargs="+", type=float, default=[0.5, 0.3, 0.2], help="default: 0.5 0.3 0.2")
    parser.add_argument("--store", type=Path, help="a file that keeps each cell as it is measured, to go on from")
    parser.add_argument("--markdown", action="store_true", help="print a table instead of JSON")
    given = parser.parse_args(arguments)
    cells = [
        Cell(network, 0, target, solver, "least squares")
        for network in given.networks for target in given.targets for solver in SOLVERS
    ]  # fmt: skip
    try:
        store = Store(given.store, "solvers")
        measure(cells, store)
    except ValueError as error:  # another's store
        parser.error(str(error))
    rows = compared(cells, store)
    print(markdown(rows) if given.markdown else json.dumps({"benchmark": "solvers", "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
