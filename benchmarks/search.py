"""What the search costs, in CPU seconds of one thread, beside the plain sweep and AIMET's search, in the same run.

Ours is all from the dense model to the plan for half the MACs: ``measured`` scores every candidate, ``auto`` those
that the plan depends on, ``predicted`` none. ``apply`` is what the plan then takes.

The plain sweep does for every candidate (a channel group at a width) what a first script would: copy the model, gather
the inputs and outputs of the layers that read the group anew, fit a linear regression on the channels that stay, and
score the whole network on all the search images. It is handed the channels that Workbench selected, so selection costs
it nothing. Both fit to the same number of rows.

AIMET's is its greedy channel pruning with the same nine widths a layer and the same images, up to its plan; its model
and ours at the MACs that it delivered are scored on the test images. It needs ``pip install aimet-torch==2.42.0``.

With several depths (``--networks resnet20m resnet32m resnet44m resnet56m``) the exponents are printed by which
evaluations and seconds grow with the number of candidates.

python benchmarks/search.py [--networks vgg] [--samples 2048] [--candidates 14] [--peer aimet] [--out search.json]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import networks
import numpy as np
import torch
from peers import Aimet
from plain import plain_score
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

import workbench as wb
from workbench.apply import apply
from workbench.calibrate import ROWS
from workbench.cost.count import count
from workbench.evaluation import Evaluation, whole_score
from workbench.methods import CHANNELS
from workbench.zoo import task

ZOO = ("vgg", "resnet20")  # the plain sweep has no fit for depthwise convolutions
MODES = ("predicted", "auto", "measured")
TARGET = 0.5
Row = dict[str, Any]


def measure(names: Sequence[str], samples: Sequence[int], candidates: int, seed: int, aimet: bool) -> Row:
    """One row a network and number of evaluation images."""
    torch.set_num_threads(1)
    rows = []
    with threadpool_limits(1):
        for name, count_ in product(names, samples):
            rows.append(_row(name, count_, candidates, seed))
            if aimet:
                rows[-1]["aimet"] = _beside_aimet(name, count_, seed, rows[-1]["ours"])
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    packages = ("workbench", "torch", "scikit-learn", *(("aimet-torch",) if aimet else ()))
    return {
        "benchmark": "search", "seed": seed, "rows_fitted": ROWS, "rows": rows, "exponents": _exponents(rows),
        "versions": {package: version(package) for package in packages},
    }  # fmt: skip


def _study(name: str, samples: int, seed: int) -> wb.Study:
    images, _ = wb.data.fashion_mnist("calibration")
    model = wb.zoo.load(name) if name in ZOO else networks.load(name)
    evaluate = Evaluation(_search_batches(samples), task.log_likelihood, name="log-likelihood")
    return wb.Study(
        model, images[:1], calibration=images.split(128), evaluate=evaluate, test=task.test_score(), seed=seed,
        refinement=None, name=name, methods=CHANNELS,  # as AIMET's
    )  # fmt: skip


def _search_batches(samples: int) -> list[tuple[Tensor, Tensor]]:
    """The search's images, and those for tuning where more are asked for: no network was trained on either."""
    splits = ("search", "tune") if samples > 2048 else ("search",)
    images, labels = (torch.cat(parts)[:samples] for parts in zip(*map(wb.data.fashion_mnist, splits), strict=True))
    return list(zip(images.split(256), labels.split(256), strict=True))


def _row(name: str, samples: int, candidates: int, seed: int) -> Row:
    """Our searches, and a sample of the plain sweep, evenly drawn from the same candidates."""
    ours = {mode: _ours(name, samples, mode, seed) for mode in MODES}
    study = _study(name, samples, seed)
    plan = study.allocate(wb.Budget(macs=TARGET), mode="measured")
    curves = study.sensitivity()
    swept = [(curve, point) for curve in curves for point in curve.points]
    drawn = np.unique(np.linspace(0, len(swept) - 1, min(candidates or len(swept), len(swept))).round().astype(int))
    start, within = time.process_time(), []
    for curve, point in (swept[index] for index in drawn):
        loss = curves.baseline - plain_score(study, curve.group, curve.path.kept(point.kept))
        within.append((point.low or 0.0) <= loss <= (point.high or 0.0))
    spent = time.process_time() - start
    plain = spent * len(swept) / len(drawn)
    start = time.process_time()
    apply(study.graph, plan, study.calibration, seed=seed)
    return {
        "network": name, "samples": samples, "groups": len(study.graph.exact), "candidates": len(swept), "ours": ours,
        "apply_cpu_seconds": round(time.process_time() - start, 2),
        "plain": {"cpu_seconds": round(plain, 2), "candidates_run": len(drawn), "cpu_seconds_run": round(spent, 2)},
        "ratio": {mode: round(plain / found["cpu_seconds"], 2) for mode, found in ours.items()},
        "plain_within_interval": float(np.mean(within)),
    }  # fmt: skip


def _ours(name: str, samples: int, mode: str, seed: int) -> Row:
    study = _study(name, samples, seed)
    start = time.process_time()
    plan = study.allocate(wb.Budget(macs=TARGET), mode=mode)
    spent = time.process_time() - start
    points = [point for curve in study.sensitivity() for point in curve.points if point.samples]
    scores = sum(point.samples for point in points)
    return {
        "cpu_seconds": round(spent, 2), "points": len(points), "evaluations": round(scores / samples, 2),
        "predicted_loss": plan.degradation,
    }  # fmt: skip


def _beside_aimet(name: str, samples: int, seed: int, ours: Row) -> Row:
    """Its search, and the models of both at the MACs that it delivers."""
    study = _study(name, samples, seed)
    calibration = list(zip(*(part.split(128) for part in wb.data.fashion_mnist("calibration")), strict=True))
    hits = Evaluation(_search_batches(samples), task.hits, name="accuracy")
    peer = Aimet(study.model, calibration, lambda model: float(whole_score(hits, model).mean()), seed)
    start = time.process_time()
    try:
        small, planned = peer.timed(TARGET, peer.METHODS[0])
    except ModuleNotFoundError:
        raise
    except Exception as error:  # what it raises is its answer
        return {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}
    spent = planned - start
    ratio = count(small, study.example_inputs).macs / study.graph.cost().macs
    accuracy = partial(_accuracy, study)
    plans = {mode: study.allocate(wb.Budget(macs=ratio), mode=mode) for mode in ("auto", "measured")}
    return {
        "cpu_seconds": round(spent, 2), "whole_cpu_seconds": round(time.process_time() - start, 2),
        "macs_ratio": ratio, "accuracy": accuracy(small), "original_accuracy": accuracy(study.model),
        "our_accuracy": {
            mode: accuracy(apply(study.graph, plan, study.calibration, seed=seed).model) for mode, plan in plans.items()
        },
        "ratio": {mode: round(spent / found["cpu_seconds"], 2) for mode, found in ours.items()},
    }  # fmt: skip


def _accuracy(study: wb.Study, model: nn.Module) -> float:
    return float(whole_score(study.test, model).mean())


def _exponents(rows: Sequence[Row]) -> Row:
    """Slopes of logarithms against that of the number of candidates, where there are several numbers of them."""
    counts = [row["candidates"] for row in rows]
    if len(set(counts)) < 3:
        return {}
    found = {"auto, evaluations": [row["ours"]["auto"]["evaluations"] for row in rows],
             "auto, CPU seconds": [row["ours"]["auto"]["cpu_seconds"] for row in rows],
             "plain, CPU seconds": [row["plain"]["cpu_seconds"] for row in rows]}  # fmt: skip
    return {name: round(float(np.polyfit(np.log(counts), np.log(values), 1)[0]), 2) for name, values in found.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the JSON, and keep it where asked."""
    parser = argparse.ArgumentParser(description="CPU seconds of the search beside the plain sweep's and AIMET's.")
    choices = (*ZOO, *networks.DEPTHS)
    parser.add_argument("--networks", nargs="+", choices=choices, default=["vgg"], metavar="NAME",
                        help=f"of {', '.join(choices)} (default vgg)")  # fmt: skip
    parser.add_argument("--samples", nargs="+", type=int, default=[2048], metavar="N",
                        help="evaluation images, up to 3976 (default 2048)")  # fmt: skip
    parser.add_argument("--candidates", type=int, default=14, help="how many the plain sweep runs before its time is "
                        "scaled up to all of them; 0 runs them all (default 14)")  # fmt: skip
    parser.add_argument("--peer", choices=["aimet"], help="AIMET's search on the same images")
    parser.add_argument("--seed", type=int, default=0, help="of the rows drawn from the calibration data (default 0)")
    parser.add_argument("--out", type=Path, help="write the JSON to this file, too")
    given = parser.parse_args(arguments)
    found = measure(given.networks, given.samples, given.candidates, given.seed, given.peer == "aimet")
    document = json.dumps(found, indent=1)
    if given.out:
        given.out.write_text(document + "\n")
    print(document)


if __name__ == "__main__":
    main()
