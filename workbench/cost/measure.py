"""``measure_latency``: how many milliseconds each operation of a model takes, over a grid of widths."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from workbench.cost.anchors import anchors_of, model_of
from workbench.cost.bench import Bench, Operation, Row
from workbench.cost.engine import Call, Eager, Engine, Timing, engine_of, steady, timed
from workbench.cost.latency import FORMAT, LatencyTable
from workbench.cost.layer_latency import LayerLatency
from workbench.cost.passes import grid, passes, rank_grid
from workbench.cost.split import Split, splits_of
from workbench.factorize import sites_of
from workbench.graph.inputs import Inputs, device_of
from workbench.graph.trace import ChannelGraph
from workbench.methods import Methods
from workbench.reading import read_object
from workbench.whole import write_text

EAGER = Eager()
ROUNDS = 3
WHOLE = 4  # whole models are timed as many times more often as a single operation: all predictions stand on them


def measure_latency(
    graph: ChannelGraph, *, device: torch.device | str | None = None, batch: int = 1, threads: int | None = None,
    engine: Engine = EAGER, rounds: int = ROUNDS, store: str | os.PathLike[str] | None = None,
    methods: Methods = Methods(),
) -> LatencyTable:  # fmt: skip
    """Time every operation whose tensors depend on widths, and the whole model, dense and at a few smaller sizes.

    Of each layer that methods can split, the stages are timed over widths and ranks, too: each alone, since its time
    depends on one width and the rank. What the whole takes besides its operations (what depends on no width, the calls
    of more stages) and how much longer these take within it (with other data in the caches) is fitted to the whole.
    Times are medians with intervals, each call in turn in every round, in another order each time. Threads and the
    denormal setting are put back afterwards.

    Parameters
    ----------
    graph : what ``trace`` found
    device : where to run; by default where the model is
    batch : samples of one forward pass; that of the example inputs where the forward fixes it
    threads : by default as many as PyTorch uses now
    engine : what runs an operation, and the model
    rounds : over all operations; more make the intervals narrower
    store : a folder that keeps tables by model, device, threads, batch, engine, methods and version; one that fits is
        read
    methods : what a search under a budget of milliseconds may do to a layer

    Raises
    ------
    ValueError
        Batch, threads or rounds are below 1, or the methods can make nothing in the model smaller.

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
    if not (graph.exact and methods.channels) and not sites_of(graph, methods.ranks)[0]:
        raise ValueError(
            f"nothing in {type(graph.model).__name__} can be made smaller by {methods}; graph.frozen says what is in "
            "the way of channels, study.sites what keeps its rank"
        )
    where = torch.device(device) if device is not None else device_of(graph.model.parameters())
    inputs = graph.inputs.take(batch) if graph.program.any_batch else graph.inputs
    place = _place(graph, where, inputs.batch, threads, engine, methods)
    file = Path(store) / f"latency-{_digest(place)}.json" if store is not None else None
    if file is not None and file.is_file():
        return LatencyTable.from_dict(read_object(file, "delete it, and latencies are measured again"))
    with steady(threads), torch.no_grad():
        table = _measured(graph, inputs.to(where), where, engine, rounds, methods, place)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(table.to_dict(), allow_nan=False))
    return table


@dataclass(frozen=True)
class Latency:
    """What a table predicts for a smaller model, and what the original and that model take, measured in turn.

    ``layers`` are the milliseconds of each layer before and after, as predicted; those are left out whose time depends
    on no width and no rank. ``dense`` is what the table says of the original.
    """

    predicted: float
    dense: float
    layers: Mapping[str, tuple[float, float]]
    before: Timing
    after: Timing
    place: Mapping[str, Any]

    def __repr__(self) -> str:
        return (
            f"Latency({self.before.median:.3g} -> {self.after.median:.3g} ms, predicted {self.predicted:.3g}; "
            f"{self.place['threads']} threads, batch {self.place['batch']}, {self.place['engine']})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values; those of the layers stand with each layer of a result."""
        return {key: value for key, value in asdict(self).items() if key != "layers"}


def compare_latency(
    table: LatencyTable, graph: ChannelGraph, small: nn.Module, widths: Mapping[str, int], rounds: int = 8 * ROUNDS
) -> Latency:
    """Time the original and a smaller model as the table was measured: same device, threads, batch and engine.

    ``widths`` are the smaller model's, as the table takes them.

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
    full, left = table.by_layer({}), table.by_layer(widths)
    layers = {layer: (ms, left[layer]) for layer, ms in full.items()}
    return Latency(table.at(widths), table.at({}), layers, Timing.of(before), Timing.of(after), table.place)


def _place(
    graph: ChannelGraph, where: torch.device, batch: int | None, threads: int, engine: Engine, methods: Methods
) -> dict[str, Any]:
    device = torch.cuda.get_device_name(where) if where.type == "cuda" else processor()
    return {"model": graph.fingerprint, "device": device, "where": str(where), "threads": threads, "batch": batch,
            "engine": engine.name, "methods": methods.names, "torch": torch.__version__, "format": FORMAT}  # fmt: skip


def processor() -> str:
    """The processor's name as Linux tells it, else its kind."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _digest(place: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(place, sort_keys=True).encode()).hexdigest()[:16]


def _measured(
    graph: ChannelGraph, inputs: Inputs, where: torch.device, engine: Engine, rounds: int, methods: Methods,
    place: Mapping[str, Any],
) -> LatencyTable:  # fmt: skip
    bench = Bench.of(graph, inputs, where, methods.channels)
    operations, skipped = bench.operations()
    splits, whole_rank = splits_of(bench, operations, sites_of(graph, methods.ranks)[0])
    grids = {name: grid(graph[name].units) for name in bench.groups} | {s.axis: rank_grid(s.most) for s in splits}
    parts = _parts(bench, operations, splits)
    turns = passes([row for part in parts for row in part.rows], grids)
    anchors = anchors_of(bench, splits, grids)
    models = [model_of(graph, splits, widths) for widths in anchors]

    def whole(model: nn.Module) -> list[Call]:
        return [Call(model.to(where).eval(), inputs.args, inputs.kwargs)]

    builds = [partial(part.calls, widths) for part in parts for widths in turns]
    found = timed([*builds, *[partial(whole, model) for model in models] * WHOLE], engine, rounds)
    layers, *stages = (
        [_layer(row, number, turns, found[start : start + len(turns)]) for number, row in enumerate(part.rows)]
        for start, part in zip(range(0, len(builds), len(turns)), parts, strict=True)
    )
    ends = [[time for (some,) in found[len(builds) + n :: len(anchors)] for time in some] for n in range(len(anchors))]
    split_layers = {split.site.layer.name for split in splits}
    return LatencyTable.fitted(
        [layer for layer in layers if layer.groups or layer.layer in split_layers], list(chain(*stages)),
        list(zip(anchors, map(Timing.of, ends), strict=True)), tuple(dict.fromkeys((*skipped, *whole_rank))), place,
    )  # fmt: skip


@dataclass(frozen=True)
class _Part:
    """Calls that are timed one behind the other, as they run in a model, at some widths and ranks."""

    rows: list[Row]
    calls: Callable[[Mapping[str, int]], list[Call]]


def _parts(bench: Bench, operations: Sequence[Operation], splits: Sequence[Split]) -> list[_Part]:
    """The model's own operations, and all layers split by each method: together they would find colder caches."""

    def dense(widths: Mapping[str, int]) -> list[Call]:
        return [bench.call(one.node, {name: widths[name] for name in one.groups}) for one in operations]

    def split(some: Sequence[Split], widths: Mapping[str, int]) -> list[Call]:
        return [call for one in some for call in one.calls(widths)]

    found = [_Part([one.row for one in operations], dense)]
    for method in dict.fromkeys(split.method for split in splits):
        some = [split for split in splits if split.method == method]
        found.append(_Part([row for one in some for row in one.rows()], partial(split, some)))
    return found


def _layer(
    row: Row, number: int, turns: Sequence[Mapping[str, int]], found: Sequence[Sequence[Sequence[float]]]
) -> LayerLatency:  # fmt: skip
    """The table of one call, from its times in all passes."""
    axes = tuple(tuple(sorted({widths[name] for widths in turns})) for name in row.axes)
    times: dict[tuple[int, ...], list[float]] = {}
    for widths, some in zip(turns, found, strict=True):
        times.setdefault(tuple(widths[name] for name in row.axes), []).extend(some[number])
    timings = [Timing.of(times[at]) for at in product(*axes)]
    shape = tuple(map(len, axes))
    ms, low, high = (np.array([getattr(t, key) for t in timings]).reshape(shape) for key in ("median", "low", "high"))
    return LayerLatency(row.layer, row.op, row.axes, axes, ms, low, high)
