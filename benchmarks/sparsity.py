"""What sparsity costs ResNet-20 on Fashion-MNIST: each way of masking, at each share, after some epochs of fine-tuning.

Every way starts from the shipped weights and trains on the same images in the same order, with SGD and a falling rate;
"dense" trains as long without masks. Accuracy is that on all 10,000 test images, which choose nothing. Gradual ways
reach their share after two thirds of the steps; one shot masks before the first.

python benchmarks/sparsity.py [--images 55000] [--epochs 2] [--seeds 0 1 2] [--store cells.jsonl] [--markdown]
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from cells import Cell, Row, Store, hits_of
from torch import nn

import workbench as wb
from workbench import sparsify as sp
from workbench.zoo.task import hits

NETWORK = "resnet20"
SHARES = (0.8, 0.9, 0.95)
GROWN = 2 / 3  # of all steps, after which the share is reached
FIRST = ("conv",)  # one input channel: nothing to take in fours
Way = Callable[[float, int], sp.Prune]  # of the share and the number of steps


def _gradual(rule: sp.Rule, share: float, steps: int) -> sp.Prune:
    return sp.Prune(sp.Cubic(share, GROWN * steps), rule, every=max(1, steps // 40))


def _acdc(share: float, steps: int) -> sp.Prune:
    phase = max(1, steps // 8)
    schedule = sp.Alternating(share, end=GROWN * steps, compressed=phase, dense=phase, begin=phase / 2)
    return sp.Prune(schedule, sp.Rule(scope=sp.Together()), reset_momentum=True)


def _movement(share: float, steps: int) -> sp.Prune:
    rule = sp.Rule(sp.Movement(), scope=sp.Together(maximum=0.98))
    return sp.Prune(sp.Cubic(share, GROWN * steps, begin=0.1 * steps), rule, every=max(1, steps // 40), returning=True)


def _rigl(share: float, steps: int) -> sp.Prune:
    regrow = sp.Regrow(every=max(1, steps // 40), until=GROWN * steps)
    return sp.Prune(sp.OneShot(share), sp.Rule(scope=sp.Erk()), regrow=regrow)


def _at_once(rule: sp.Rule, share: float, steps: int) -> sp.Prune:
    return sp.Prune(sp.OneShot(share), rule)


TOGETHER = sp.Rule(scope=sp.Together())
ELEMENTS: dict[str, Way] = {
    "GMP, each layer": partial(_gradual, sp.Rule()), "GMP, together": partial(_gradual, TOGETHER), "AC/DC": _acdc,
    "movement": _movement, "RigL": _rigl,
    "SNIP-momentum": partial(_gradual, sp.Rule(sp.SnipMomentum(), scope=sp.Together())),
    "one shot": partial(_at_once, TOGETHER),
}  # fmt: skip
BLOCKS = sp.Rule(pattern=sp.Blocks(4, 1), ignore=("fc",))
FOUR = sp.Rule(pattern=sp.NofM(2, 4), ignore=FIRST)
CHANNELS = sp.Rule(pattern=sp.Channels())
PATTERNS: dict[str, tuple[Way, float]] = {
    "2:4, gradual": (partial(_gradual, FOUR), 0.5), "2:4, one shot": (partial(_at_once, FOUR), 0.5),
    "4 x 1 blocks, gradual": (partial(_gradual, BLOCKS), 0.8), "channels, gradual": (partial(_gradual, CHANNELS), 0.5),
    "channels, one shot": (partial(_at_once, CHANNELS), 0.5),
}  # fmt: skip
WAYS = (*ELEMENTS, *PATTERNS)


def grid(seeds: Sequence[int], shares: Sequence[float], ways: Sequence[str]) -> list[tuple[Cell, Way | None]]:
    """All that is to be measured, by seed: "dense", and these ways."""
    found: list[tuple[Cell, Way | None]] = []
    for seed in seeds:
        found.append((Cell(NETWORK, seed, 0.0, "dense", ""), None))
        found += [(Cell(NETWORK, seed, share, name, ""), way) for name, way in ELEMENTS.items() for share in shares]
        found += [(Cell(NETWORK, seed, share, name, ""), way) for name, (way, share) in PATTERNS.items()]
    return [(cell, way) for cell, way in found if way is None or cell.method in ways]


def measure(cells: Sequence[tuple[Cell, Way | None]], store: Store, images: int, epochs: int) -> None:
    """Train what is not in the store yet."""
    missing = set(store.missing([cell for cell, _ in cells]))
    for cell, way in cells:
        if cell not in missing:
            continue
        start = time.process_time()
        model, sparsity = trained(way, cell.target, cell.seed, images, epochs)
        row: Row = {"cpu_seconds": time.process_time() - start, "sparsity": sparsity}
        store.add(cell, row, right(model))


def trained(way: Way | None, share: float, seed: int, images: int, epochs: int) -> tuple[nn.Module, float]:
    """The network after fine-tuning, and the share of its masked tensors that is zero."""
    model = wb.zoo.load(NETWORK)
    inputs, labels = (tensor[:images] for tensor in wb.data.fashion_mnist("train"))
    batches = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(inputs, labels), batch_size=128, shuffle=True, generator=torch.Generator()
    )
    attach: Callable[[torch.optim.Optimizer], torch.optim.Optimizer] = lambda optimizer: optimizer  # noqa: E731
    sparsifier = None
    if way is not None:
        graph = wb.trace(model, inputs[:2])
        sparsifier = sp.Sparsifier(model, way(share, epochs * len(batches)), graph=graph, seed=seed).prepare()
        attach = sparsifier.attach
    wb.finetune(
        model, batches, epochs, seed=seed,
        optimizer=lambda p: attach(torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-4)),
    )  # fmt: skip
    return model, sparsifier.sparsity if sparsifier else 0.0


def right(model: nn.Module) -> np.ndarray:
    """Which test images are named rightly."""
    inputs, labels = wb.data.fashion_mnist("test")
    model.eval()
    with torch.inference_mode():
        found = [hits(model(x), (x, y)) for x, y in zip(inputs.split(500), labels.split(500), strict=True)]
    return torch.cat(found).numpy()


def summary(store: Store) -> list[Row]:
    """One row a way and share: the mean over the seeds, and the points lost against "dense" of the same seeds."""
    dense = {cell.seed: hits_of(row).mean() for cell, row in store.rows.items() if cell.method == "dense"}
    found: dict[tuple[str, float], list[tuple[float, float]]] = defaultdict(list)
    sparsity: dict[tuple[str, float], float] = {}
    for cell, row in store.rows.items():
        accuracy = float(hits_of(row).mean())
        place = cell.method, cell.target
        found[place].append((accuracy, float(dense.get(cell.seed, np.nan)) - accuracy))
        sparsity[place] = row["sparsity"]
    return [
        {"method": method, "share": share, "sparsity": sparsity[method, share], "seeds": len(each),
         "accuracy": float(np.mean([a for a, _ in each])), "loss": 100 * float(np.mean([lost for _, lost in each])),
         "spread": 100 * float(np.std([a for a, _ in each]))}
        for (method, share), each in found.items()
    ]  # fmt: skip


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a table."""
    lines = ["| way | masked | accuracy | points lost |", "| --- | ---: | ---: | ---: |"]
    lines += [
        f"| {row['method']} | {row['sparsity']:.1%} | {row['accuracy']:.2%} | {row['loss']:+.2f} |" for row in rows
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print JSON or a table, and keep the JSON where asked."""
    parser = argparse.ArgumentParser(description="Accuracy of ResNet-20 under masks, after fine-tuning.")
    parser.add_argument("--images", type=int, default=55_000, help="of the training set (default: 55000)")
    parser.add_argument("--epochs", type=int, default=2, help="of fine-tuning (default: 2)")
    parser.add_argument("--shares", nargs="+", type=float, default=SHARES, metavar="SHARE",
                        help=f"of single elements to mask (default: {' '.join(map(str, SHARES))})")  # fmt: skip
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2), metavar="SEED", help="(default: 0 1 2)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, metavar="WAY",
                        help=f"of {'; '.join(WAYS)} (default: all)")  # fmt: skip
    parser.add_argument("--store", type=Path, help="a file that keeps each cell as it is measured, to go on from")
    parser.add_argument("--markdown", action="store_true", help="print a table instead of JSON")
    parser.add_argument("--out", type=Path, help="write the JSON to this file, too")
    given = parser.parse_args(arguments)
    try:
        store = Store(given.store, "sparsity", images=given.images, epochs=given.epochs)
    except ValueError as error:  # another's store
        parser.error(str(error))
    measure(grid(given.seeds, given.shares, given.ways), store, given.images, given.epochs)
    rows = summary(store)
    settings = {"benchmark": "sparsity", "images": given.images, "epochs": given.epochs}
    document = json.dumps(settings | {"rows": rows}, indent=1)
    if given.out:
        given.out.write_text(document + "\n")
    print(markdown(rows) if given.markdown else document)


if __name__ == "__main__":
    main()
