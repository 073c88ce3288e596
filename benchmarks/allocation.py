"""How good and how fast the exact allocation is, beside HiGHS, AIMET's greedy and a uniform share.

Every problem is solved by the workbench and by HiGHS (``scipy.optimize.milp``) in the same run. ``same`` says that both
prove the same optimum; ``ratio`` is HiGHS's time by ours (the fastest of three). ``greedy`` and ``uniform`` are their
total degradation by the best one's. Times are of the processor, so that a busy machine does not count. The curves are
synthetic; the couplings are those of the networks named, which for MobileNetV3 and Swin-T are traced.

python benchmarks/allocation.py [--full] [--out allocation.json]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import scipy
from allocation_problems import NETWORKS, make
from highs import solve_with_highs
from traced_problems import TRACED, make_traced

from workbench.allocate import Exact, Greedy, Problem, Uniform, front, solve

Answer = TypeVar("Answer")


def timed(call: Callable[[], Answer], repeats: int = 1) -> tuple[Answer, float]:
    """The answer and the least number of processor seconds it took."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        answer = call()
        seconds.append(time.process_time() - start)
    return answer, min(seconds)


def against_highs(options: int, seeds: int, highs_seconds: float, names: list[str]) -> list[dict[str, Any]]:
    rows = []
    for name in names:
        for seed in range(seeds):
            problem = make(name, options, seed, share=(0.5, 0.3, 0.7)[seed % 3])
            ours, seconds = timed(lambda p=problem: solve(p), 3)
            theirs, their_seconds = timed(lambda p=problem: solve_with_highs(p, highs_seconds))
            same = theirs.value is not None and abs(theirs.value - ours.degradation) <= 1e-6 * ours.degradation
            rows.append(
                {
                    "problem": name,
                    "groups": len(problem.choices),
                    "options": options,
                    "seed": seed,
                    "ms": 1e3 * seconds,
                    "gap": ours.gap,
                    "highs_s": their_seconds,
                    "highs_proven": theirs.proven,
                    "same": same if theirs.proven else None,
                    "ratio": their_seconds / seconds,
                    **baselines(problem, ours.degradation),
                }
            )
    return rows


def baselines(problem: Problem, best: float) -> dict[str, float]:
    return {
        "greedy": solve(problem, Greedy()).degradation / best,
        "uniform": solve(problem, Uniform()).degradation / best,
    }


def alone(
    names: list[str], options: int, seeds: int, resources: int = 1, limit_s: float = 10.0
) -> list[dict[str, Any]]:
    """What is too large for HiGHS: our time and proven gap only."""
    rows = []
    for name in names:
        for seed in range(seeds):
            share = (0.5, 0.3, 0.7)[seed % 3]
            if name in TRACED:
                problem = make_traced(name, options, seed, share)
            else:
                problem = make(name, options, seed, share, resources)
            answer, seconds = timed(lambda p=problem: solve(p, Exact(time_limit_s=limit_s)), 3)
            rows.append(
                {
                    "problem": name,
                    "groups": len(problem.choices),
                    "options": options,
                    "resources": resources,
                    "seed": seed,
                    "ms": 1e3 * seconds,
                    "gap": answer.gap,
                }
            )
    return rows


def fronts(seeds: int, budgets: int = 100) -> list[dict[str, Any]]:
    rows = []
    for seed in range(seeds):
        problem = make("resnet50", 32, seed)
        whole = 2 * problem.resources[0].budget
        wanted = np.linspace(0.1, 0.9, budgets) * whole
        plans, seconds = timed(lambda p=problem, w=wanted: front(p, "macs", w.tolist()), 3)
        rows.append(
            {"seed": seed, "budgets": budgets, "ms": 1e3 * seconds, "worst_gap": max(p.gap or 0 for p in plans)}
        )
    return rows


def measure(full: bool) -> dict[str, Any]:
    coupled = [name for name in NETWORKS if name not in ("uncoupled", "densenet121", "resnet152")]
    if full:
        compared = against_highs(8, 3, 120, coupled) + against_highs(16, 1, 120, coupled)
        compared += against_highs(4, 1, 120, ["densenet121", "resnet152"]) + against_highs(64, 1, 120, ["uncoupled"])
    else:
        compared = against_highs(4, 1, 20, coupled) + against_highs(8, 1, 20, coupled)
    seeds = 5 if full else 2
    singles = {
        "tree_like": alone([name for name in (*coupled, "resnet152") if name != "unet++"], 32, seeds),
        "traced": alone(list(TRACED), 32, seeds),
        "dense": alone(["densenet121", "unet++"], 32, seeds, limit_s=5.0),
        "two_budgets": alone(["resnet50"], 32, seeds, resources=2),
        "uncoupled": alone(["uncoupled"], 64, seeds),
    }
    swept = fronts(seeds)
    summary = summarise(compared, singles, swept)
    return {"summary": summary, "against_highs": compared, **singles, "front": swept}


def summarise(
    compared: list[dict[str, Any]], singles: dict[str, list[dict[str, Any]]], swept: list[dict[str, Any]]
) -> dict[str, Any]:
    proven = [row for row in compared if row["highs_proven"]]
    return {
        "highs_same": f"{sum(row['same'] for row in proven)} of {len(proven)} proven",
        "highs_ratio_median": statistics.median(row["ratio"] for row in compared),
        "ms_median": {kind: statistics.median(row["ms"] for row in rows) for kind, rows in singles.items()},
        "ms_most": {kind: max(row["ms"] for row in rows) for kind, rows in singles.items()},
        "worst_gap": {kind: max(row["gap"] for row in rows) for kind, rows in singles.items()},
        "front_ms_most": max(row["ms"] for row in swept),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the JSON, and keep it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="more options and seeds; HiGHS gets 120 s a problem")
    parser.add_argument("--out", type=Path, help="write the JSON to this file, too")
    given = parser.parse_args(arguments)
    versions = {"python": platform.python_version(), "scipy": scipy.__version__}
    document = json.dumps({"benchmark": "allocation", "versions": versions, **measure(given.full)}, indent=1)
    if given.out:
        given.out.write_text(document + "\n")
    print(document)


if __name__ == "__main__":
    main()
