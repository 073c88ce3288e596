"""Predicted against measured latency: of smaller models of several sizes, and of plans under half the latency.

For each network a table is measured; then models with random shares of their channels, and the model of the best plan
for half the latency (under synthetic curves), are timed in turn with the dense one. ``error`` is the median of
|predicted / measured - 1|; ``share_error`` is that of shares of the dense model's time, which a plan goes by: a machine
that is slower than when the table was measured is so for all models. ``met`` says whether the plan's measured time is
at most half of the dense model's. The zoo's networks of 28 pixels get sixteen images at a time, others one; ``--batch``
gives another number. One thread and its time on the processor, so that a busy machine does not count; ``--wall`` takes
the wall's clock. ``--methods`` lowers ranks, too: of a random half of the layers, and where the plan does.

python benchmarks/latency.py [--networks vgg resnet20 mobilenetv2 vit resnet18] [--methods channels,spatial_svd,tucker]
    [--batch 1] [--wall] [--out latency.json]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from workbench import Budget, SensitivityCurves, trace, zoo
from workbench.calibrate import calibrate
from workbench.cost.engine import Call, Eager, Timing, steady, timed
from workbench.cost.latency import LatencyTable
from workbench.cost.layer_latency import rank_axis
from workbench.cost.measure import measure_latency
from workbench.factorize import factorize_, ladders_of, sites_of
from workbench.graph.record import Factored, recorded
from workbench.graph.trace import ChannelGraph
from workbench.limits import Limits
from workbench.methods import CHANNELS, Methods
from workbench.planning import plan_in_time
from workbench.select import Path as Order
from workbench.sensitivity import Curve, Point

NETWORKS = (*zoo.NAMES, "resnet18")
SHARES = (0.8, 0.6, 0.4, 0.3)
SHARE = 0.5  # of the dense model's latency, for the plan
SAMPLES = 64  # random inputs from which the ranks' losses are told


def traced(name: str) -> ChannelGraph:
    if name in zoo.NAMES:
        return trace(zoo.load(name), torch.randn(1, 1, 28, 28))
    return trace(getattr(torchvision.models, name)(weights=None).eval(), torch.randn(1, 3, 224, 224))


def curves_of(graph: ChannelGraph, methods: Methods) -> SensitivityCurves:
    """Losses that grow with the square of the share that leaves; of ranks, what random inputs lose of a layer's output.
    """
    found = []
    for group in graph.exact if methods.channels else ():
        points = [Point(k / group.units, k, 0.0, (1 - k / group.units) ** 2) for k in range(1, group.units)]
        found.append(Curve(group.name, group.units, tuple(points), Order(tuple(range(group.units))[::-1])))
    if sites := sites_of(graph, methods.ranks)[0]:
        inputs = [graph.inputs.take(SAMPLES).map(torch.randn_like).args]
        statistics = calibrate(graph, inputs, also=[site.layer for site in sites])
        for name, ladder in ladders_of(graph, sites, statistics).items():
            lost = ladder.path.errors[::-1]  # at the places from 1 on
            points = [Point(k / ladder.units, k, 0.0, lost[k - 1]) for k in range(1, ladder.units)]
            found.append(Curve(name, ladder.units, tuple(points), ladder.path, ladder=ladder))
    return SensitivityCurves("synthetic", 0.0, 1, "none", tuple(found))


def drawn(graph: ChannelGraph, methods: Methods, share: float, seed: int) -> dict[str, list[int]]:
    """Around this share of every group's units, where channels may leave."""
    if not methods.channels:
        return {}
    draw = random.Random(seed)
    shares = {group.name: min(1.0, max(0.1, share * draw.uniform(0.7, 1.3))) for group in graph.exact}
    return {group.name: list(range(max(1, round(shares[group.name] * group.units)))) for group in graph.exact}


def lowered(table: LatencyTable, share: float, seed: int) -> list[Factored]:
    """About half of the layers, each by one of its methods, at ranks around this share of the largest that is known."""
    draw, most = random.Random(seed), {stage.groups[-1]: stage.widths[-1][-1] for stage in table.stages}
    found = []
    for layer in dict.fromkeys(stage.layer for stage in table.stages):
        axis = draw.choice([name for name in most if name.rpartition("/")[0] == layer])
        if draw.random() < 0.5:
            rank = max(1, round(min(1.0, share * draw.uniform(0.4, 1.2)) * most[axis]))
            found.append(Factored(layer, axis.rpartition("/")[2], rank))
    return found


def smaller_model(
    graph: ChannelGraph, kept: Mapping[str, Sequence[int]], factors: Sequence[Factored]
) -> tuple[nn.Module, dict[str, int]]:
    """With the widths and ranks that it has: a narrow layer has no high one."""
    small = factorize_(graph.winnow(kept), factors, blank=True)
    record = recorded(small)
    assert record is not None
    ranks = {rank_axis(factored.layer, factored.method): factored.rank for factored in record.factors}
    return small, {name: len(units) for name, units in kept.items()} | ranks


def measure(name: str, engine: Eager, rounds: int, methods: Methods, batch: int | None) -> dict[str, Any]:
    graph = traced(name)
    batch = batch or (16 if name in zoo.NAMES else 1)
    inputs, start = graph.inputs.take(batch), time.perf_counter()
    table = measure_latency(graph, batch=batch, threads=1, engine=engine, methods=methods)
    seconds = time.perf_counter() - start
    plan = plan_in_time(graph, curves_of(graph, methods), Budget(latency_ms=SHARE), None, Limits(), table)
    asked: list[tuple[Mapping[str, Sequence[int]], list[Factored]]] = [
        (plan.kept, plan.factors),
        *((drawn(graph, methods, share, seed), lowered(table, share, seed)) for seed, share in enumerate(SHARES)),
    ]
    made = [smaller_model(graph, kept, factors) for kept, factors in asked]
    models: list[nn.Module] = [graph.model, *(model for model, _ in made)]
    calls = [[Call(model.eval(), inputs.args, inputs.kwargs)] for model in models]
    with steady(1):
        found = timed([partial(list, some) for some in calls], engine, rounds)
    dense, best, *others = [Timing.of(times).median for (times,) in found]
    predicted = [table.at(widths) for _, widths in made]
    pairs = list(zip(predicted, (best, *others), strict=True))
    shares = [(one / table.at({})) / (other / dense) for one, other in pairs]
    return {
        "network": name, "batch": batch, "methods": methods.names, "table_seconds": round(seconds, 1),
        "lower_ranks": len(plan.ranks), "dense_ms": round(dense, 3), "dense_predicted_ms": round(table.at({}), 3),
        "plan_ms": round(best, 3), "plan_predicted_ms": round(predicted[0], 3), "plan_share": round(best / dense, 3),
        "met": best <= SHARE * dense,
        "predicted_measured_ms": [[round(one, 3), round(other, 3)] for one, other in pairs],
        "error": round(statistics.median(abs(one / other - 1) for one, other in pairs), 3),
        "share_error": round(statistics.median(abs(one - 1) for one in shares), 3),
        "fixed_ms": round(table.fixed, 3), "scale": round(table.scale, 3), "call_ms": round(table.call, 4),
        "slower": len(table.slower()), "skipped": len(table.skipped), "device": table.place["device"],
        "engine": engine.name,
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the JSON, and keep it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=NETWORKS, metavar="NAME", help="of the zoo or torchvision")
    parser.add_argument("--methods", type=Methods.parse, default=CHANNELS, help="as of workbench compress (channels)")
    parser.add_argument("--batch", type=int, help="images at a time (default: 16 of the zoo's, else 1)")
    parser.add_argument("--wall", action="store_true", help="the wall's clock instead of the thread's processor time")
    parser.add_argument("--rounds", type=int, default=12, help="in which the finished models are timed (default 12)")
    parser.add_argument("--out", type=Path, help="write the JSON to this file, too")
    given = parser.parse_args(arguments)
    engine = Eager(processor=not given.wall)
    rows = [measure(name, engine, given.rounds, given.methods, given.batch) for name in given.networks]
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
