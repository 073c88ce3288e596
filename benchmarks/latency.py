"""Predicted against measured latency: of smaller models of several sizes, and of plans under half the latency.

For each network a table is measured; then models with random shares of their channels, and the model of the best plan
for half the latency (under synthetic curves), are timed in turn with the dense one. ``error`` is the median of
|predicted / measured - 1|, ``met`` whether the plan's measured time is at most half of the dense model's. The zoo's
networks of 28 pixels get sixteen images at a time, others one. One thread and its time on the processor, so that a busy
machine does not count; ``--wall`` takes the wall's clock.

python benchmarks/latency.py [--networks vgg resnet20 mobilenetv2 vit resnet18] [--wall] [--out latency.json]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from workbench import Budget, SensitivityCurves, trace, zoo
from workbench.cost.engine import Call, Eager, Timing, steady, timed
from workbench.cost.measure import measure_latency
from workbench.graph.trace import ChannelGraph
from workbench.limits import Limits
from workbench.plan import plan_in_time
from workbench.select import Path as Order
from workbench.sensitivity import Curve, Point

NETWORKS = (*zoo.NAMES, "resnet18")
SHARES = (0.8, 0.6, 0.4, 0.3)
SHARE = 0.5  # of the dense model's latency, for the plan


def traced(name: str) -> ChannelGraph:
    if name in zoo.NAMES:
        return trace(zoo.load(name), torch.randn(1, 1, 28, 28))
    return trace(getattr(torchvision.models, name)(weights=None).eval(), torch.randn(1, 3, 224, 224))


def curves_of(graph: ChannelGraph) -> SensitivityCurves:
    """Losses that grow with the square of the share that leaves."""
    found = []
    for group in graph.exact:
        points = [Point(k / group.units, k, 0.0, (1 - k / group.units) ** 2) for k in range(1, group.units)]
        found.append(Curve(group.name, group.units, tuple(points), Order(tuple(range(group.units))[::-1])))
    return SensitivityCurves("synthetic", 0.0, 1, "none", tuple(found))


def drawn(graph: ChannelGraph, share: float, seed: int) -> dict[str, list[int]]:
    """Around this share of every group's units."""
    draw = random.Random(seed)
    shares = {group.name: min(1.0, max(0.1, share * draw.uniform(0.7, 1.3))) for group in graph.exact}
    return {group.name: list(range(max(1, round(shares[group.name] * group.units)))) for group in graph.exact}


def measure(name: str, engine: Eager, rounds: int) -> dict[str, Any]:
    graph = traced(name)
    batch = 16 if name in zoo.NAMES else 1
    inputs = graph.inputs.take(batch)
    table = measure_latency(graph, batch=batch, threads=1, engine=engine)
    plan = plan_in_time(graph, curves_of(graph), Budget(latency_ms=SHARE), None, Limits(), table)
    kept: list[Mapping[str, Sequence[int]]] = [drawn(graph, share, seed) for seed, share in enumerate(SHARES)]
    models: list[nn.Module] = [graph.model, graph.winnow(plan.kept), *(graph.winnow(some) for some in kept)]
    calls = [[Call(model.eval(), inputs.args, inputs.kwargs)] for model in models]
    with steady(1):
        found = timed([partial(list, some) for some in calls], engine, rounds)
    dense, best, *others = [Timing.of(times).median for (times,) in found]
    predicted = [table.at({name: len(units) for name, units in some.items()}) for some in (plan.kept, *kept)]
    pairs = list(zip(predicted, (best, *others), strict=True))
    return {
        "network": name, "batch": batch, "dense_ms": round(dense, 3), "dense_predicted_ms": round(table.at({}), 3),
        "plan_ms": round(best, 3), "plan_predicted_ms": round(predicted[0], 3), "plan_share": round(best / dense, 3),
        "met": best <= SHARE * dense,
        "predicted_measured_ms": [[round(one, 3), round(other, 3)] for one, other in pairs],
        "error": round(statistics.median(abs(one / other - 1) for one, other in pairs), 3),
        "fixed_ms": round(table.fixed, 3), "scale": round(table.scale, 3), "slower": len(table.slower()),
        "skipped": len(table.skipped), "device": table.place["device"], "engine": engine.name,
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the JSON, and keep it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=NETWORKS, metavar="NAME", help="of the zoo or torchvision")
    parser.add_argument("--wall", action="store_true", help="the wall's clock instead of the thread's processor time")
    parser.add_argument("--rounds", type=int, default=12, help="in which the finished models are timed (default 12)")
    parser.add_argument("--out", type=Path, help="write the JSON to this file, too")
    given = parser.parse_args(arguments)
    rows = [measure(name, Eager(processor=not given.wall), given.rounds) for name in given.networks]
    document = {
        "benchmark": "latency", "versions": {"torch": torch.__version__}, "networks": rows,
        "error_median": statistics.median(row["error"] for row in rows), "met": sum(row["met"] for row in rows),
    }  # fmt: skip
    text = json.dumps(document, indent=1)
    if given.out:
        given.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
