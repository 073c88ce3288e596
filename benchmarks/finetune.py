"""Accuracy after compression and one epoch of training: ours, and Torch-Pruning's, by the same ``wb.finetune``.

All learn from the 55,000 training images and from the original's outputs, and report on all 10,000 test images. The
network in front of the training is that of ``accuracy.py``. Peers: ``pip install torch-pruning==1.6.1``.
It takes minutes of one core for each cell, and goes on where it stopped when it is given the same --store.

python benchmarks/finetune.py --networks resnet20 --targets 0.5 0.3 --peers [--store cells.jsonl] [--markdown]
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

import torch
from cells import Cell, Store, lead, markdown, summary
from peers import TorchPruning
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm.auto import tqdm
from ways import NONE, OURS, REFINED, Peers, Ranks, Workbench, accuracy_of, macs_of

import workbench as wb

TARGETS = (0.5, 0.3)
BATCH = 128
JOINT = "channels and ranks"
METHODS = (OURS, JOINT)


def grid(networks: Sequence[str], targets: Sequence[float], seeds: Sequence[int], peers: bool) -> Iterator[Cell]:
    """The cells that are asked for; the last field says how the network was made before it was trained."""
    for network in networks:
        yield Cell(network, 0, 1.0, "original", NONE)
    for seed, network, target in product(seeds, networks, targets):
        yield from (Cell(network, seed, target, method, REFINED) for method in METHODS)
        if peers:
            yield from (Cell(network, seed, target, method, NONE) for method in TorchPruning.METHODS)


def measure(cells: Sequence[Cell], store: Store, epochs: int) -> None:
    """Every cell that the store has not."""
    makers = {name: lru_cache(1)(maker) for name, maker in ((OURS, Workbench), (JOINT, Ranks))}
    others = lru_cache(1)(Peers)
    for cell in tqdm(store.missing(dict.fromkeys(cells)), "cells", disable=not sys.stderr.isatty()):
        dense = wb.zoo.load(cell.network)
        if cell.method == "original":
            store.add(cell, {"macs_ratio": 1.0, "cpu_seconds": 0.0}, accuracy_of(dense).numpy())
            continue
        start = time.process_time()
        try:
            maker = makers.get(cell.method, others)(cell.network, cell.seed)
            small = maker.smaller(cell.target, cell.method, cell.repair)
        except ModuleNotFoundError:
            raise
        except Exception as error:  # a peer that cannot: a row that says so
            store.add(cell, {"failed": f"{type(error).__name__}: {error}".splitlines()[0]})
            continue
        made, before = time.process_time(), accuracy_of(small)
        losses = trained(small, dense, epochs, cell.seed)
        row = {
            "macs_ratio": macs_of(small) / macs_of(dense), "cpu_seconds": round(made - start, 1),
            "training_cpu_seconds": round(time.process_time() - made, 1), "losses": losses,
            "untrained": before.double().mean().item(),
        }  # fmt: skip
        store.add(cell, row, accuracy_of(small).numpy())


def trained(small: nn.Module, dense: nn.Module, epochs: int, seed: int) -> list[float]:
    """Trains in place, half from the labels and half from the original; the mean loss of every epoch."""
    loader = DataLoader(
        TensorDataset(*wb.data.fashion_mnist("train")), BATCH, shuffle=True, generator=torch.Generator(), drop_last=True
    )
    return [*wb.finetune(small, loader, epochs, teacher=dense, seed=seed).losses]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print JSON or a table."""
    parser = argparse.ArgumentParser(
        description="Accuracy of the zoo's networks after compression and training, on all 10,000 test images."
    )
    parser.add_argument("--networks", nargs="+", choices=wb.zoo.NAMES, default=("resnet20",), metavar="NAME",
                        help=f"of {', '.join(wb.zoo.NAMES)} (default: resnet20)")  # fmt: skip
    parser.add_argument("--targets", nargs="+", type=float, default=TARGETS, metavar="SHARE",
                        help=f"shares of the MACs to keep (default: {' '.join(map(str, TARGETS))})")  # fmt: skip
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2), metavar="SEED",
                        help="of the search and of the order of the images (default: 0 1 2)")  # fmt: skip
    parser.add_argument("--epochs", type=int, default=1, help="of training (default: 1)")
    parser.add_argument("--peers", action="store_true", help="train what Torch-Pruning makes, too")
    parser.add_argument("--store", type=Path, help="a file that keeps each cell as it is measured, to go on from")
    parser.add_argument("--markdown", action="store_true", help="print a table of the points lost instead of JSON")
    parser.add_argument("--out", type=Path, help="write the JSON to this file, too")
    given = parser.parse_args(arguments)
    try:
        store = Store(given.store, f"finetune, {given.epochs} epochs")
        measure(list(grid(given.networks, given.targets, given.seeds, given.peers)), store, given.epochs)
    except (ValueError, ModuleNotFoundError, FileNotFoundError) as error:  # another's store; a peer, data not there
        parser.error(str(error))
    rows = summary(store)
    leads = [lead(store, *place, METHODS, TorchPruning.METHODS) for place in product(given.networks, given.targets)]
    document = json.dumps({"benchmark": "finetune", "epochs": given.epochs, "rows": rows, "leads": leads}, indent=1)
    if given.out:
        given.out.write_text(document + "\n")
    print(markdown(rows) if given.markdown else document)


if __name__ == "__main__":
    main()
