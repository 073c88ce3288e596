"""Latency: an engine that tells times by a formula, so that what the table says can be known; and the real one."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import workbench as wb
from tests.models import BY_NAME
from tests.test_plan import curves_of
from workbench import Budget, trace
from workbench.cost.anchors import SHARES
from workbench.cost.bench import Bench
from workbench.cost.count import count
from workbench.cost.engine import ENGINES, Call, Eager, Timing, flushes_denormals, steady, timed
from workbench.cost.latency import LatencyTable
from workbench.cost.measure import measure_latency
from workbench.cost.passes import LEVELS, grid, passes
from workbench.graph.trace import ChannelGraph
from workbench.methods import CHANNELS
from workbench.planning import make_plan, plan_in_time

FIXED = 0.25  # ms


@dataclass
class Formula:
    """One ms a million multiplications of a layer, ``jump`` times more at 33 channels; a fixed part for the whole."""

    jump: float = 1.0
    name: str = "formula"
    calls: int = 0

    def times(self, calls: Sequence[Call], samples: int) -> list[list[float]]:
        self.calls += len(calls)
        return [[self.ms(call)] * samples for call in calls]

    def ms(self, call: Call) -> float:
        if isinstance(call.function, nn.Module):
            layers = [layer for layer in call.function.modules() if hasattr(layer, "weight")]
            sizes = [(layer.weight.shape, self.positions(layer)) for layer in layers]
            return FIXED + 2 * sum(self.of(shape, positions) for shape, positions in sizes)
        weight = call.kwargs.get("weight")
        return 0.0 if weight is None else self.of(weight.shape, 100 if weight.ndim == 4 else 1)

    def positions(self, layer: nn.Module) -> int:
        return 100 if isinstance(layer, nn.Conv2d) else 1

    def of(self, shape: torch.Size, positions: int) -> float:
        behind = self.jump if shape[0] == 33 else 1.0
        return behind * shape.numel() * positions / 1e6


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 48, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(4800, 10),
    )  # fmt: skip


@pytest.fixture(scope="module")
def graph() -> ChannelGraph:
    return trace(model(), torch.randn(1, 3, 10, 10))


def truth(a: int, b: int) -> float:
    return FIXED + 2 * (27 * 100 * a + 9 * 100 * a * b + 100 * 10 * b) / 1e6


def test_the_table_is_the_formula(graph: ChannelGraph) -> None:
    table = measure_latency(graph, engine=Formula(), rounds=1)  # type: ignore[arg-type]
    assert table.fixed == pytest.approx(FIXED)
    assert table.scale == pytest.approx(2)
    assert table.call == pytest.approx(0, abs=1e-9)
    assert table.at({}) == pytest.approx(truth(64, 48)) == pytest.approx(table.dense.median)
    for a in grid(64):
        for b in grid(48):
            assert table.at({"0": a, "2": b}) == pytest.approx(truth(a, b))
    assert table.at({"0": 40, "2": 30}) == pytest.approx(truth(40, 30))  # linear in each, so that between is exact, too
    assert [layer.op for layer in table.layers] == ["conv2d", "relu", "conv2d", "relu", "linear"]
    assert len(table.whole) == len(SHARES) + len(wb.Methods().ranks) + 1
    assert (table.slower(), table.skipped) == ([], ())


def test_a_budget_of_milliseconds_is_kept_and_best(graph: ChannelGraph) -> None:
    table, curves = measure_latency(graph, engine=Formula(), rounds=1), curves_of(graph)  # type: ignore[arg-type]
    for amount in (0.5, 1.2):
        budget = Budget(latency_ms=amount)
        plan = make_plan(graph, curves, budget, latency=table)
        a, b = (len(plan.kept[name]) for name in ("0", "2"))
        limit = amount if amount > 1 else amount * truth(64, 48)
        assert plan.costs["latency_ms"] == pytest.approx(truth(a, b))
        assert truth(a, b) <= limit * (1 + 1e-9)
        widths = [(x, y) for x in range(8, 65) for y in range(6, 49) if truth(x, y) <= limit]
        best = min(curves["0"].at(x) + curves["2"].at(y) for x, y in widths)
        assert plan.degradation == pytest.approx(best)


def test_fewer_channels_that_take_longer_are_found_and_avoided(graph: ChannelGraph) -> None:
    table = measure_latency(graph, engine=Formula(jump=3.0), rounds=1)  # type: ignore[arg-type]
    found = [(layer, few["0"], many["0"]) for layer, few, many in table.slower() if list(few) == ["0"]]
    assert found == [("0", 33, 48)]
    ranks = {few["0/weight_svd"] for layer, few, _ in table.slower() if layer == "0" and "0/weight_svd" in few}
    known = next(stage.widths[-1] for stage in table.stages if stage.groups[-1] == "0/weight_svd")
    assert ranks == set(known)  # its last stage makes 33 channels, too, at any rank
    layer = table.layers[0]
    slow = layer.ms[layer.widths[0].index(33)]
    assert slow > layer.ms[layer.widths[0].index(48)]  # the table is not made monotone
    plan = make_plan(graph, curves_of(graph), Budget(latency_ms=0.5), latency=table)
    smooth = make_plan(
        graph, curves_of(graph), Budget(latency_ms=0.5), latency=measure_latency(graph, engine=Formula(), rounds=1)  # type: ignore[arg-type]
    )  # fmt: skip
    assert len(smooth.kept["2"]) == 33 or len(plan.kept["2"]) != 33
    assert plan.costs["latency_ms"] <= 0.5 * table.at({})
    assert 33 not in {len(units) for units in plan.kept.values()}


def test_each_pair_of_levels_is_in_one_pass(graph: ChannelGraph) -> None:
    bench = Bench.of(graph, graph.inputs, torch.device("cpu"))
    operations, _ = bench.operations()
    turns = passes([one.row for one in operations], {name: grid(graph[name].units) for name in bench.groups})
    assert len({(some["0"], some["2"]) for some in turns}) == len(turns) == LEVELS**2
    small = bench.call(next(one.node for one in operations if one.groups == ("0", "2")), {"0": 5, "2": 7})
    assert small.kwargs["weight"].shape == (7, 5, 3, 3)
    assert small.kwargs["input"].shape == (1, 5, 10, 10)


@pytest.mark.parametrize("name", ["residual", "separable", "grouped", "concat", "excited", "folded-time", "functional"])
def test_every_operation_runs_at_every_width(name: str) -> None:
    toy = BY_NAME[name]
    table = measure_latency(toy.graph, batch=3, rounds=1)
    assert table.layers
    assert table.at({}) > 0
    assert all((layer.ms > 0).all() and (layer.low <= layer.high).all() for layer in table.layers)
    assert {g for layer in table.layers for g in layer.groups} <= set(toy.groups)


def test_operations_with_several_results() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.lstm, self.head = nn.Linear(3, 8), nn.LSTM(8, 12, batch_first=True), nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            left, right = self.lstm(self.stem(x))[0].chunk(2, 1)
            return self.head(left * right)

    table = measure_latency(trace(Recurrent(), torch.randn(1, 4, 3)), rounds=1)
    assert {"linear", "lstm", "mul"} <= {layer.op for layer in table.layers}
    assert "getitem" not in {layer.op for layer in table.layers}
    assert table.skipped == ()


def test_dropout_takes_no_time() -> None:
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 4)).eval()
    graph = wb.trace(net, torch.randn(2, 8))
    operations, skipped = Bench.of(graph, graph.inputs, torch.device("cpu")).operations()
    assert [operation.layer for operation in operations] == ["0", "1", "3"]
    assert not skipped


def test_depthwise_convolutions_get_their_groups() -> None:
    toy = BY_NAME["separable"]
    bench = Bench.of(toy.graph, toy.graph.inputs, torch.device("cpu"))
    calls = [bench.call(one.node, dict.fromkeys(one.groups, 2)) for one in bench.operations()[0] if one.groups]
    for call in (call for call in calls if call.kwargs.get("groups", 1) > 1):
        assert call.kwargs["groups"] == call.kwargs["input"].shape[1] // call.kwargs["weight"].shape[1]
        call()


def test_it_is_kept_by_what_it_holds_for(graph: ChannelGraph, tmp_path: Path) -> None:
    engine = Formula()
    table = measure_latency(graph, engine=engine, rounds=1, store=tmp_path)  # type: ignore[arg-type]
    calls = engine.calls
    again = measure_latency(graph, engine=engine, rounds=1, store=tmp_path)  # type: ignore[arg-type]
    assert engine.calls == calls
    read = LatencyTable.from_dict(json.loads(json.dumps(table.to_dict())))
    assert again.to_dict() == table.to_dict() == read.to_dict()
    assert again.at({"0": 20}) == table.at({"0": 20})
    measure_latency(graph, engine=engine, rounds=1, batch=2, store=tmp_path)  # type: ignore[arg-type]
    assert engine.calls > calls
    assert len(list(tmp_path.glob("latency-*.json"))) == 2
    assert (table.place["batch"], table.place["engine"], table.place["torch"]) == (1, "formula", torch.__version__)
    assert list(table.to_frame()["layer"]) == [layer.layer for layer in table.layers]
    for file in tmp_path.glob("latency-*.json"):
        file.write_text(file.read_text()[:100])
    with pytest.raises(ValueError, match=r"latency-\w+\.json is damaged \(.*\); delete it, and latencies are measured"):
        measure_latency(graph, engine=engine, rounds=1, store=tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize("flushed", [False, True])
def test_threads_and_denormals_are_put_back(flushed: bool) -> None:
    threads = torch.get_num_threads()
    torch.set_flush_denormal(flushed)
    try:
        with steady(threads + 1):
            assert torch.get_num_threads() == threads + 1
            assert flushes_denormals()
        assert (torch.get_num_threads(), flushes_denormals()) == (threads, flushed)
        with pytest.raises(KeyError), steady(threads + 1):
            raise KeyError
        assert (torch.get_num_threads(), flushes_denormals()) == (threads, flushed)
    finally:
        torch.set_flush_denormal(False)


def test_engines_time_what_takes_time() -> None:
    few, many = torch.randn(32, 32), torch.randn(512, 512)
    for engine in ENGINES.values():
        short, long = engine.times([Call(torch.mm, (few, few)), Call(torch.mm, (many, many))], 9)
        assert 0 < Timing.of(short).median < Timing.of(long).median
    ((times,),) = timed([lambda: [Call(torch.mm, (few, few))]], Eager(), rounds=2, samples=3)
    assert len(times) == 6
    timing = Timing.of([5.0, 1.0, 2.0, 3.0, 4.0])
    assert timing.low <= timing.median == 3.0 <= timing.high


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"threads": 0}, {"rounds": 0}, {"threads": 1.5}])
def test_bad_numbers_are_refused(graph: ChannelGraph, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be a whole number, 1 or more"):
        measure_latency(graph, **wrong)


def test_a_table_of_another_model_is_refused(graph: ChannelGraph) -> None:
    with pytest.raises(ValueError, match="latency_ms needs a table of times; give latency=wb"):
        make_plan(graph, curves_of(graph), Budget(latency_ms=0.5))
    other = trace(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(1, 4))
    table = measure_latency(other, rounds=1)
    with pytest.raises(ValueError, match="the latencies were measured on the model sha256"):
        make_plan(graph, curves_of(graph), Budget(latency_ms=0.5), latency=table)


def test_a_model_that_cannot_shrink_has_no_table() -> None:
    graph = trace(nn.Linear(4, 2), torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"nothing in Linear can be made smaller by Methods\(channels\); graph.frozen"):
        measure_latency(graph, methods=CHANNELS)


def test_all_the_way(tmp_path: Path) -> None:
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(3, 96, 3), nn.ReLU(), nn.Conv2d(96, 96, 3), nn.ReLU()]
    net = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(13824, 4))
    x: Tensor = torch.randn(32, 3, 16, 16)
    graph = trace(net, x[:1])
    table = wb.measure_latency(graph, engine=Eager(processor=True), threads=1)
    study = wb.Study(net, x[:1], calibration=[x], latency=table, refinement=None)
    study.graph = graph
    result = study.compress(wb.Budget(latency_ms=0.5, multiple=16))
    assert result.latency is not None
    assert result.latency.predicted == pytest.approx(result.plan.costs["latency_ms"])
    assert result.plan.costs["latency_ms"] <= 0.5 * result.latency.dense == 0.5 * table.at({})
    assert result.latency.after.median < 0.8 * result.latency.before.median
    assert result.latency.predicted == pytest.approx(result.latency.after.median, rel=0.4)
    assert result.cost.macs == count(result.model, x[:2]).macs < graph.cost().macs
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert data["run"]["latency"]["after"]["median"] == result.latency.after.median
    assert data["predicted_cost"]["latency_ms"] == result.plan.costs["latency_ms"]
    again = wb.Plan.from_dict(json.loads(json.dumps(result.plan.to_dict())))
    assert again.budget == wb.Budget(latency_ms=0.5, multiple=16)
    assert "ms" in repr(result.latency)
    assert re.search(r"latency_ms 0\.\d{3} of the original", repr(result))
    result.save(tmp_path)
    assert "Latency" in (tmp_path / "report.html").read_text()
    frame = result.to_frame().set_index("layer")
    assert frame["ms before"].tolist() == [row["ms"][0] for row in data["layers"]]
    assert frame["ms after"].sum() < 0.8 * frame["ms before"].sum()


class Slower(Formula):
    """Smaller models take longer than their operations."""

    def ms(self, call: Call) -> float:
        time = super().ms(call)
        return 1.15 * time if isinstance(call.function, nn.Module) and time < 0.9 * truth(64, 48) else time


def test_a_plan_whose_model_is_too_slow_is_made_anew(graph: ChannelGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    table = measure_latency(graph, engine=Formula(), rounds=1)  # type: ignore[arg-type]
    monkeypatch.setitem(ENGINES, "formula", Slower())  # type: ignore[arg-type]
    budget = Budget(latency_ms=0.5)

    def real(plan: wb.Plan) -> float:
        return 1.15 * truth(*(len(plan.kept[name]) for name in ("0", "2"))) / truth(64, 48)

    told = make_plan(graph, curves_of(graph), budget, latency=table)
    met = plan_in_time(graph, curves_of(graph), budget, None, wb.Limits(), table)
    assert real(told) > 0.5 >= real(met) > 0.45
    assert met.budget == budget
    loose = plan_in_time(graph, curves_of(graph), Budget(latency_ms=3 * truth(64, 48)), None, wb.Limits(), table)
    assert not loose.cut  # above what all of it takes, in milliseconds
