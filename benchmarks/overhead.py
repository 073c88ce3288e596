"""What it takes to have a candidate scored, beside the scoring: a search of a thousand tiny evaluations.

The network has 111 residual blocks of a few units, so that an evaluation is little but the search's own work, in this
process, in two others and on a Dask cluster of two. ``whole_model_ms`` is what one plain run of the original on all the
samples takes, more than a candidate needs, of which only what comes after its change is run. Times are of the clock,
workers that start included: run it on a machine that has nothing else to do.

python benchmarks/overhead.py [--out overhead.json]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import workbench as wb
from workbench.batch.dask import dask_executor

BLOCKS, UNITS, SAMPLES = 111, 10, 64


class Block(nn.Module):
    """A few units beside the residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, UNITS), nn.Linear(UNITS, 16)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x).relu())


def seconds_of(model: nn.Module, x: Tensor, workers: int | Executor | None) -> tuple[int, float]:
    """How many evaluations the search took, and how long."""
    study = wb.Study(model, x[:2], calibration=[x], methods=wb.Methods.of("channels"), workers=workers)
    assert study.search  # traced and calibrated
    start = time.perf_counter()
    curves = study.sensitivity("measured")
    seconds = time.perf_counter() - start
    return sum(point.samples > 0 for curve in curves for point in curve.points), seconds


def measure() -> dict[str, Any]:
    """One row a place where evaluations are done."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model, x = nn.Sequential(*(Block() for _ in range(BLOCKS)), nn.Linear(16, 4)).eval(), torch.randn(SAMPLES, 16)
    with torch.no_grad():
        model(x)
        start = time.perf_counter()
        for _ in range(100):
            model(x)
        whole = (time.perf_counter() - start) / 100
    rows = []
    for name, place in (
        ("in this process", nullcontext(None)), ("two processes", nullcontext(2)),
        ("Dask, two workers", dask_executor("local", 2)),
    ):  # fmt: skip
        with place as workers:
            count, seconds = seconds_of(model, x, workers)  # type: ignore[arg-type]
        rows.append({"where": name, "evaluations": count, "ms_each": round(1e3 * seconds / count, 2)})
    versions = {package: version(package) for package in ("workbench", "torch", "distributed")}
    return {"benchmark": "overhead", "whole_model_ms": round(1e3 * whole, 2), "rows": rows, "versions": versions}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description="Milliseconds an evaluation, most of them the search's own.")
    parser.add_argument("--out", type=Path, help="write the JSON to this file, too")
    given = parser.parse_args(arguments)
    document = json.dumps(measure(), indent=1)
    if given.out:
        given.out.write_text(document + "\n")
    print(document)


if __name__ == "__main__":
    main()
