"""``measure_latency``: how many milliseconds each operation of a model takes, over a grid of widths."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from workbench.cost.bench import Bench, Operation
from workbench.cost.engine import Call, Eager, Engine, Timing, engine_of, steady, timed
from workbench.cost.latency import FORMAT, LatencyTable, LayerLatency
from workbench.graph.call import op_name
from workbench.graph.inputs import Inputs, device_of
from workbench.graph.trace import ChannelGraph
from workbench.graph.winnow import record_of, smaller

EAGER = Eager()
ROUNDS = 3
SHARES = (1.0, 0.75, 0.5, 0.25, 0.125)  # of all groups: the models that are timed from end to end
WHOLE = 4  # as many times more often as a single operation: all predictions stand on them


def measure_latency(
    graph: ChannelGraph, *, device: torch.device | str | None = None, batch: int = 1, threads: int | None = None,
    engine: Engine = EAGER, rounds: int = ROUNDS, store: str | os.PathLike[str] | None = None,
) -> LatencyTable:  # fmt: skip
    """Time every operation whose tensors depend on widths, and the whole model, dense and at a few smaller sizes.

    What the whole takes besides its operations (calls, what depends on no width) and how much longer these take within
    it (with other data in the caches) is fitted to the whole. Times are medians with intervals, each call in turn in
    every round, in another order each time. Threads and the denormal setting are put back afterwards.

    Parameters
    ----------
    graph : what ``trace`` found
    device : where to run; by default where the model is
    batch : samples of one forward pass; that of the example inputs where the forward fixes it
    threads : by default as many as PyTorch uses now
    engine : what runs an operation, and the model
    rounds : over all operations; more make the intervals narrower
    store : a folder that keeps tables by model, device, threads, batch, engine and version; one that fits is read

    Raises
    ------
    ValueError
        Batch, threads or rounds are below 1, or nothing in the model depends on widths.

    Examples
    --------
    >>> from torch import nn
    >>> from workbench.graph.trace import trace
    >>> graph = trace(nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2)), torch.zeros(1, 4))
    >>> table = measure_latency(graph, rounds=1)
    >>> [layer.op for layer in table.layers], table.at({}) >= table.fixed
    (['linear', 'relu', 'linear'], True)
    """
    threads = torch.get_num_threads() if threads is None else threads
    for name, number in (("batch", batch), ("threads", threads), ("rounds", rounds)):
        if not isinstance(number, int) or number < 1:
            raise ValueError(f"{name}={number!r} must be a whole number, 1 or more")
    if not graph.exact:
        raise ValueError(
            f"nothing in {type(graph.model).__name__} depends on widths; graph.frozen says what is in the way"
        )
    where = torch.device(device) if device is not None else device_of(graph.model.parameters())
    inputs = graph.inputs.take(batch) if graph.program.any_batch else graph.inputs
    place = _place(graph, where, inputs.batch, threads, engine)
    file = Path(store) / f"latency-{_digest(place)}.json" if store is not None else None
    if file is not None and file.is_file():
        return LatencyTable.from_dict(json.loads(file.read_text()))
    with steady(threads), torch.no_grad():
        table = _measured(graph, inputs.to(where), where, engine, rounds, place)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(table.to_dict(), allow_nan=False))
    return table


@dataclass(frozen=True)
class Latency:
    """What a table predicted for a smaller model, and what the original and that model take, measured in turn."""

    predicted: float
    before: Timing
    after: Timing
    place: Mapping[str, Any]

    def __repr__(self) -> str:
        return (
            f"Latency({self.before.median:.3g} -> {self.after.median:.3g} ms, predicted {self.predicted:.3g}; "
            f"{self.place['threads']} threads, batch {self.place['batch']}, {self.place['engine']})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def compare_latency(
    table: LatencyTable, graph: ChannelGraph, small: nn.Module, predicted: float, rounds: int = 8 * ROUNDS
) -> Latency:
    """Time the original and a smaller model as the table was measured: same device, threads, batch and engine.

    Raises
    ------
    ValueError
        The table's engine is not known here.
    """
    engine, where = engine_of(table.place["engine"]), torch.device(table.place["where"])
    inputs = (graph.inputs.take(table.place["batch"]) if graph.program.any_batch else graph.inputs).to(where)
    models = [copy.deepcopy(model).to(where).eval() for model in (graph.model, small)]
    with steady(table.place["threads"]):
        calls = [[Call(model, inputs.args, inputs.kwargs)] for model in models]
        (before,), (after,) = timed([partial(list, some) for some in calls], engine, rounds)
    return Latency(predicted, Timing.of(before), Timing.of(after), table.place)


def _place(graph: ChannelGraph, where: torch.device, batch: int | None, threads: int, engine: Engine) -> dict[str, Any]:
    device = torch.cuda.get_device_name(where) if where.type == "cuda" else processor()
    return {"model": graph.fingerprint, "device": device, "where": str(where), "threads": threads, "batch": batch,
            "engine": engine.name, "torch": torch.__version__, "format": FORMAT}  # fmt: skip


def processor() -> str:
    """The processor's name as Linux tells it, else its kind."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _digest(place: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(place, sort_keys=True).encode()).hexdigest()[:16]


def _measured(
    graph: ChannelGraph, inputs: Inputs, where: torch.device, engine: Engine, rounds: int, place: Mapping[str, Any]
) -> LatencyTable:
    bench = Bench.of(graph, inputs, where)
    operations, skipped = bench.operations()
    passes = bench.passes(operations)
    anchors = [{group.name: max(1, round(share * group.units)) for group in graph.exact} for share in SHARES]
    models = [smaller(graph, graph.model, record_of(graph, {name: range(kept) for name, kept in widths.items()}))
              for widths in anchors]  # fmt: skip

    def in_turn(widths: Mapping[str, int]) -> list[Call]:
        return [bench.call(one.node, {name: widths[name] for name in one.groups}) for one in operations]

    def whole(model: nn.Module) -> list[Call]:
        return [Call(model.to(where).eval(), inputs.args, inputs.kwargs)]

    builds = [*(partial(in_turn, widths) for widths in passes), *[partial(whole, model) for model in models] * WHOLE]
    found = timed(builds, engine, rounds)
    layers = tuple(_layer(one, number, passes, found) for number, one in enumerate(operations) if one.groups)
    ends = [[time for (some,) in found[len(passes) + n :: len(anchors)] for time in some] for n in range(len(anchors))]
    return LatencyTable.fitted(layers, list(zip(anchors, map(Timing.of, ends), strict=True)), skipped, place)


def _layer(
    operation: Operation, number: int, passes: Sequence[Mapping[str, int]], found: Sequence[Sequence[Sequence[float]]]
) -> LayerLatency:
    """The table of one operation, from its times in all passes."""
    axes = tuple(tuple(sorted({widths[name] for widths in passes})) for name in operation.groups)
    times: dict[tuple[int, ...], list[float]] = {}
    for widths, some in zip(passes, found, strict=False):  # behind the passes are the whole models
        times.setdefault(tuple(widths[name] for name in operation.groups), []).extend(some[number])
    timings = [Timing.of(times[at]) for at in product(*axes)]
    shape = tuple(map(len, axes))
    ms, low, high = (np.array([getattr(t, key) for t in timings]).reshape(shape) for key in ("median", "low", "high"))
    return LayerLatency(operation.layer, op_name(operation.node), operation.groups, axes, ms, low, high)
