"""Repairing all layers of a ResNet-50 that lost half its channels: ours beside scikit-learn's LinearRegression.

As AIMET does it, that is one ``LinearRegression`` a layer on explicit rows. Both get the same rows, of 256 images at
224 pixels; ours chooses a ridge and checks itself on held-out rows besides. Also the peak memory of ``calibrate``.

python benchmarks/repair.py [--images 256] [--side 224] [--model resnet50] [--out repair.json]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import workbench as wb
from workbench.calibrate import ROWS, Reader, calibrate
from workbench.graph.inputs import Inputs
from workbench.graph.trace import ChannelGraph, Layer
from workbench.repair import kept_columns, repair_layer

Lost = tuple[Layer, Reader, list[int]]  # a layer and the columns that stay
Pairs = list[tuple[Tensor, Tensor]]
BATCHES = 8  # of which every fourth is held out
HELD = 4 << 30  # bytes of rows that are held at a time


def model_of(name: str) -> nn.Module:
    """A torchvision model with random weights."""
    from torchvision import models

    torch.manual_seed(0)
    model: nn.Module = models.get_model(name, weights=None)
    return model.eval()


def data(images: int, side: int) -> list[Tensor]:
    """Batches of noise that is smooth, as images are."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(images, 3, side // 8, side // 8, generator=generator)
    return list(nn.functional.interpolate(coarse, size=side, mode="bilinear").split(-(-images // BATCHES)))


def measure(name: str, images: int, side: int) -> dict[str, Any]:
    """CPU seconds of both over all layers, and megabytes of memory."""
    receive, send = multiprocessing.get_context("spawn").Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=_memory, args=(name, images, side, send))
    process.start()
    memory = receive.recv()
    process.join()
    graph = wb.trace(model_of(name), data(2, side)[0])
    seconds = {"ours": 0.0, "linear_regression": 0.0}
    errors: dict[str, list[float]] = {way: [] for way in seconds}
    layers = 0
    for layer, reader, columns, pairs in _layers(graph, data(images, side)):
        layers += 1
        start = time.process_time()
        evidence = reader.empty(columns)
        for number, (rows, targets) in enumerate(pairs):
            (evidence.held_out if number % 4 == 3 else evidence.fit).add(rows, targets)
        repair = repair_layer(graph, layer, columns, evidence)
        seconds["ours"] += time.process_time() - start
        errors["ours"].append(evidence.all.error(_solution(repair.weight, repair.bias, columns)) / evidence.all.energy)
        found, spent = _linear_regression(pairs)
        seconds["linear_regression"] += spent
        errors["linear_regression"].append(evidence.all.error(found) / evidence.all.energy)
    return {
        "benchmark": "repair", "model": name, "images": images, "side": side, "layers": layers,
        "versions": {package: version(package) for package in ("workbench", "torch", "scikit-learn")},
        "cpu_seconds": {way: round(spent, 1) for way, spent in seconds.items()},
        "ratio": round(seconds["linear_regression"] / seconds["ours"], 2),
        "mean_relative_error": {way: sum(found) / len(found) for way, found in errors.items()},
        "calibrate": memory,
    }  # fmt: skip


def _memory(name: str, images: int, side: int, pipe: Any) -> None:
    """In a process of its own: what calibration takes beyond the model and the data."""
    model, batches = model_of(name), data(images, side)
    graph = wb.trace(model, batches[0][:2])
    before = _peak()
    start = time.process_time()
    calibrate(graph, batches)
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    pipe.send({"cpu_seconds": round(time.process_time() - start, 1), "peak_mb": round(_peak()),
               "before_mb": round(before), "model_mb": round(weights / 2**20)})  # fmt: skip


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _layers(graph: ChannelGraph, batches: Sequence[Tensor]) -> Iterator[tuple[Layer, Reader, list[int], Pairs]]:
    """Each layer that loses columns where every second unit leaves, with its rows and targets, batch by batch."""
    kept = {group.name: range(0, group.units, 2) for group in graph.exact}
    waiting: list[Lost] = []
    for layer in graph.layers:
        columns = kept_columns(graph, layer, kept)
        if len(columns) < layer.shape[1:].numel():
            waiting.append((layer, Reader.of(layer, graph, ROWS, sum(map(len, batches)), 0), columns))
    while waiting:
        some: list[Lost] = []
        size = 0
        while waiting and (not some or size < HELD):
            some.append(waiting.pop(0))
            size += 4 * ROWS * len(some[-1][2])
        pairs = _rows(graph, some, batches)
        for layer, reader, columns in some:
            yield layer, reader, columns, pairs.pop(layer.node)


@torch.no_grad()
def _rows(graph: ChannelGraph, some: Sequence[Lost], batches: Sequence[Tensor]) -> dict[str, Pairs]:
    found: dict[str, Pairs] = {layer.node: [] for layer, _, _ in some}
    wanted = {layer.node: (reader, columns) for layer, reader, columns in some}
    for inputs in batches:
        values = graph.program.start(Inputs.of(inputs))
        for node in graph.program.nodes:
            graph.program.run([node], values)
            if node.name in wanted:
                (reader, columns), output = wanted[node.name], values[node.name]
                how = reader.how
                places = how.positions(output, reader.per_sample, reader.generator)
                rows = how.rows(values[how.input], places, columns)
                found[node.name].append((rows, how.targets(output, places)))
            graph.program.forget(node, values)
    return found


def _linear_regression(pairs: Pairs) -> tuple[Tensor, float]:
    """Its solution, ``[groups, kept + 1, out / groups]``, and the CPU seconds of its fits."""
    from sklearn.linear_model import LinearRegression

    groups = []
    spent = 0.0
    for group in range(len(pairs[0][0])):
        rows = torch.cat([rows[group] for rows, _ in pairs]).numpy()
        targets = torch.cat([targets[group] for _, targets in pairs]).numpy()
        start = time.process_time()
        fitted = LinearRegression().fit(rows, targets)
        spent += time.process_time() - start
        matrix, constant = torch.from_numpy(fitted.coef_.T), torch.from_numpy(fitted.intercept_)
        groups.append(torch.cat([matrix, constant[None]]).double())
    return torch.stack(groups), spent


def _solution(weight: Tensor, bias: Tensor | None, columns: Sequence[int]) -> Tensor:
    assert bias is not None
    return torch.cat([weight.flatten(1)[:, columns].T, bias[None]]).double()[None]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description="Repair of all layers beside scikit-learn's LinearRegression.")
    parser.add_argument("--model", default="resnet50", help="of torchvision (default resnet50)")
    parser.add_argument("--images", type=int, default=256, help="calibration images (default 256)")
    parser.add_argument("--side", type=int, default=224, help="their pixels (default 224)")
    parser.add_argument("--out", type=Path, help="write the JSON to this file, too")
    given = parser.parse_args(arguments)
    document = json.dumps(measure(given.model, given.images, given.side), indent=1)
    if given.out:
        given.out.write_text(document + "\n")
    print(document)


if __name__ == "__main__":
    main()
