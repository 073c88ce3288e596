"""What sharing saves: CPU seconds of a batch beside those of one ``workbench compress`` for each of its runs.

Both are whole processes with one thread, from the start of the interpreter to the report on the disk. ``--separate 4``
makes four of the calls, evenly drawn, and scales their time up; ``--models vgg`` takes some of the job file's networks.

python benchmarks/batch.py [--jobs examples/nightly.toml] [--models vgg] [--separate 4] [--out batch.json]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from workbench.batch.jobfile import read_jobs
from workbench.batch.runs import Run, runs_of

NIGHTLY = Path(__file__).parent.parent / "examples" / "nightly.toml"
WORKBENCH = (sys.executable, "-m", "workbench.cli")


def measure(jobs: Path, models: Sequence[str], separate: int) -> dict[str, Any]:
    """The batch, then the calls."""
    overrides = [f"jobs.0.model={json.dumps(list(models))}"] if models else []
    runs = runs_of(read_jobs(jobs, overrides))
    drawn = np.unique(np.linspace(0, len(runs) - 1, min(separate or len(runs), len(runs))).round().astype(int))
    with tempfile.TemporaryDirectory() as folder:
        sets = [part for override in overrides for part in ("--set", override)]
        batch = _spent("batch", str(jobs), "--out", f"{folder}/batch", *sets)
        print(f"batch: {batch:.1f} CPU seconds for {len(runs)} runs", file=sys.stderr, flush=True)
        calls = {}
        for run in (runs[place] for place in drawn):
            calls[run.name] = _spent(*_call(run), "--out", f"{folder}/{run.name}")
            print(f"{run.name}: {calls[run.name]:.1f} CPU seconds alone", file=sys.stderr, flush=True)
    alone = sum(calls.values()) * len(runs) / len(calls)
    return {
        "benchmark": "batch", "runs": len(runs), "searches": len({run.search for run in runs}),
        "batch_cpu_seconds": round(batch, 1), "separate_cpu_seconds": round(alone, 1), "separate_run": len(calls),
        "ratio": round(alone / batch, 2), "calls": {name: round(spent, 1) for name, spent in calls.items()},
        "versions": {package: version(package) for package in ("workbench", "torch")},
    }  # fmt: skip


def _call(run: Run) -> list[str]:
    budget = ",".join(f"{name}={value}" for name, value in run.budget.items())
    return [
        "compress", "--model", run.model, "--budget", budget, "--criterion", run.criterion, "--mode", run.mode,
        "--refinement", str(run.refinement), "--evaluations", str(run.evaluations), "--seed", str(run.seed),
        "--methods", ",".join(run.methods),
    ]  # fmt: skip


def _spent(*arguments: str) -> float:
    """CPU seconds of a command and all it starts."""
    before = _children()
    command = [*WORKBENCH, *arguments, "--quiet"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return _children() - before


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Measure, and print or write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=Path, default=NIGHTLY)
    parser.add_argument("--models", nargs="*", default=[], help="of the first job; by default as the file says")
    parser.add_argument("--separate", type=int, default=0, help="calls that are really made; 0: all")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    text = json.dumps(measure(given.jobs, given.models, given.separate), indent=1)
    print(text)
    if given.out:
        given.out.write_text(text)


if __name__ == "__main__":
    main()
