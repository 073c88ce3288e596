"""Latency over ranks, by an engine that counts: what a table predicts is what the factorised model then takes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import workbench as wb
from tests.test_ranks import Net
from workbench.cost.bench import Bench
from workbench.cost.engine import ENGINES, Call
from workbench.cost.latency import LatencyTable
from workbench.cost.measure import compare_latency
from workbench.cost.passes import LEVELS, passes, rank_grid
from workbench.cost.split import splits_of
from workbench.factorize import factorize_, sites_of
from workbench.graph.record import Factored
from workbench.methods import CHANNELS
from workbench.planning import make_plan
from workbench.report import render, units
from workbench.widths import width_problem

FIXED, CALL = 0.25, 0.01  # ms of a model, and of every layer and padding in it
METHODS = ("spatial_svd", "weight_svd", "weight_svd_point_first", "tucker")
SEQUENCES = {"up", "back", "head"}  # linear layers


class Counter(TorchFunctionMode):
    """Multiplications, and operations that are layers or paddings."""

    def __init__(self) -> None:
        super().__init__()
        self.multiplications = self.calls = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        if func.__name__ in ("conv2d", "linear"):
            self.multiplications += multiplications(found, args[1])
        self.calls += func.__name__ in ("conv2d", "linear", "pad")
        return found


def multiplications(made: Tensor, weight: Tensor) -> int:
    return made.numel() * weight[0].numel()


class Counting:
    """One ms a million multiplications of an operation; within a model two, and what the model and its calls take."""

    name = "counting"

    def __init__(self) -> None:
        self.calls = 0

    def times(self, calls: Sequence[Call], samples: int) -> list[list[float]]:
        self.calls += len(calls)
        with torch.no_grad():
            return [[self.ms(call)] * samples for call in calls]

    def ms(self, call: Call) -> float:
        if isinstance(call.function, nn.Module):
            with Counter() as counter:
                call()
            return FIXED + CALL * counter.calls + 2e-6 * counter.multiplications
        weight = call.kwargs.get("weight")
        return 0.0 if weight is None or weight.ndim == 1 else 1e-6 * multiplications(call(), weight)

    def of(self, model: nn.Module) -> float:
        return self.ms(Call(model, (torch.randn(1, 2, 10, 10),)))


@pytest.fixture(scope="module")
def study() -> wb.Study:
    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(96, 2, 10, 10)
    return wb.Study(model, x[:2], calibration=x.split(32), methods=wb.Methods(), refinement=None)


@pytest.fixture(scope="module")
def table(study: wb.Study) -> LatencyTable:
    return measured(study)


def measured(study: wb.Study, **options: Any) -> LatencyTable:
    return wb.measure_latency(study.graph, rounds=1, **{"engine": Counting(), **options})


@pytest.fixture
def timed(study: wb.Study, table: LatencyTable, monkeypatch: pytest.MonkeyPatch) -> wb.Study:
    """The study with that table, whose engine is known."""
    monkeypatch.setitem(ENGINES, "counting", Counting())
    data = study.calibration
    found = wb.Study(
        study.model, study.example_inputs, calibration=data, methods=wb.Methods(), refinement=None, latency=table
    )  # fmt: skip
    found.__dict__ |= {name: getattr(study, name) for name in ("graph", "statistics", "search")}
    return found


def test_what_is_between_operations_is_found(table: LatencyTable) -> None:
    assert table.fixed == pytest.approx(FIXED + 9 * CALL)  # eight layers, one of which pads
    assert (table.scale, table.call) == (pytest.approx(2), pytest.approx(CALL))
    assert table.skipped == ()
    assert table.place["methods"] == ["channels", *METHODS]
    assert "6 of them at lower ranks" in repr(table)


@pytest.mark.parametrize("layer", ["first", "down", "grouped", "up", "back", "head"])
@pytest.mark.parametrize("method", METHODS)
def test_the_table_is_what_a_factorised_layer_takes(
    study: wb.Study, table: LatencyTable, layer: str, method: str
) -> None:
    """At every rank, alone and with half of the channels gone; a product of two ranks only where it was measured."""
    graph, axis = study.graph, f"{layer}/{method}"
    stages = [stage for stage in table.stages if stage.groups[-1] == axis]
    if layer in SEQUENCES and method != "weight_svd":
        assert not stages
        with pytest.raises(ValueError, match=f"table of latencies holds no times of {axis}; measure it"):
            table.at({axis: 2})
        return
    *_, ranks = stages[0].widths
    for rank in ranks if method == "tucker" else range(1, ranks[-1] + 1):
        for kept in ({}, {group.name: group.units // 2 for group in graph.exact}):
            small = graph.winnow({name: range(units) for name, units in kept.items()})
            full, left = (net.get_parameter(f"{layer}.weight").shape for net in (study.model, small))
            made = factorize_(small, [Factored(layer, method, rank)], blank=True)
            clipped = left != full and rank > min(left[:2])
            told, real = table.at({**kept, axis: rank}), Counting().of(made)
            assert told >= real - 1e-9 if clipped else told == pytest.approx(real)
    with pytest.raises(ValueError, match=f"{axis} was measured up to the rank {ranks[-1]}, above which it costs more"):
        table.at({axis: ranks[-1] + 1})


def test_costs_of_any_widths_with_any_ranks(timed: wb.Study, table: LatencyTable) -> None:
    """What the solver reckons is what comes out, but where a rank exceeds what is left, or two are between levels."""
    graph, curves = timed.graph, timed.sensitivity("predicted")
    (resource,) = (problem := width_problem(graph, curves, wb.Budget(latency_ms=0.5), latency=table)).resources
    ladders = {curve.group: curve.ladder for curve in curves if curve.ladder}
    draw = np.random.default_rng(0)
    exact = 0
    for _ in range(40):
        picked = [int(draw.integers(len(choice.options) // 2, len(choice.options))) for choice in problem.choices]
        options = {choice.name: choice.options[place] for choice, place in zip(problem.choices, picked, strict=True)}
        forms = {ladder.layer: form for name, ladder in ladders.items() if (form := ladder.form(options[name]))}
        small = graph.winnow({name: range(units) for name, units in options.items() if name not in ladders})
        wanted = [Factored(layer, form.method.name, form.rank) for layer, form in forms.items()]
        made = factorize_(small, wanted, blank=True)
        axes = {f"{layer}/{form.method.name}": form.rank for layer, form in forms.items()}
        kept = {name: units for name, units in options.items() if name not in ladders}
        told, real = resource.cost(picked), Counting().of(made)
        assert told == pytest.approx(table.at(kept | axes))
        between = any(f.method.name == "tucker" and f.rank not in known_ranks(table, n) for n, f in forms.items())
        clipped = list(made.winnowed.factors) != wanted  # type: ignore[union-attr, arg-type]
        assert told >= real - 1e-9
        assert clipped or between or told == pytest.approx(real)
        exact += not clipped and not between
    assert exact >= 10


def known_ranks(table: LatencyTable, layer: str) -> tuple[int, ...]:
    return next(stage.widths[-1] for stage in table.stages if stage.groups[-1] == f"{layer}/tucker")


@pytest.mark.parametrize("amount", [0.9, 0.75, 0.65, 0.55])
def test_one_search_under_milliseconds(timed: wb.Study, amount: float) -> None:
    """Never above; the finished model takes what the plan says, and loses less than without ranks."""
    budget = wb.Budget(latency_ms=amount)
    plan = timed.allocate(budget, mode="predicted")
    assert plan == make_plan(timed.graph, timed.sensitivity(), budget, latency=timed.latency)  # nothing to make anew
    result = timed.compress(plan)
    assert result.latency is not None
    dense, limit = Counting().of(timed.model), amount * Counting().of(timed.model)
    assert result.latency.before.median == pytest.approx(dense)
    assert result.latency.after.median == pytest.approx(Counting().of(result.model))
    assert result.latency.after.median <= result.latency.predicted + 1e-9 <= limit + 2e-9
    assert result.target_met
    data = result.to_dict()
    assert data["run"]["latency"]["predicted"] == pytest.approx(plan.costs["latency_ms"])
    between = result.latency.predicted - timed.latency.fixed
    for layer in data["layers"]:
        (before, after), macs = layer["ms"], layer["macs"]
        assert before == pytest.approx(2e-6 * macs[0])
        assert 0 <= after - 2e-6 * macs[1] + 1e-9 <= 3 * CALL * bool(layer["rank"]) + 2e-9  # and its more calls
        between -= after
    assert between == pytest.approx(0)  # no other operation of this model takes time
    page = render(data)
    assert '<th scope="col" data-sort="number">Share of latency' in page
    assert f"keeps {units.percent(plan.costs['latency_ms'] / dense)} of the <bdi>predicted latency</bdi>" in page
    alone = replace(timed.sensitivity(), curves=tuple(curve for curve in timed.sensitivity() if not curve.ladder))
    assert plan.degradation <= make_plan(timed.graph, alone, budget, latency=timed.latency).degradation


def test_ranks_are_chosen_where_they_save_time(timed: wb.Study) -> None:
    plans = [timed.allocate(wb.Budget(latency_ms=amount), mode="predicted") for amount in (0.9, 0.75, 0.65)]
    assert any(plan.ranks for plan in plans)
    front = timed.front("latency_ms", [0.6, 0.8])
    assert front.plans[0].degradation >= front.plans[1].degradation


def test_the_originals_time_is_not_changed_by_more_methods(study: wb.Study, table: LatencyTable) -> None:
    """A table that knows ranks serves a search over channels, at the same costs."""
    alone = measured(study, methods=CHANNELS)
    assert alone.stages == ()
    few = {group.name: group.units // 3 for group in study.graph.exact}
    assert alone.at(few) == pytest.approx(table.at(few))
    only = measured(study, methods=wb.Methods(channels=False, tucker=False))
    assert all(len(stage.groups) == 1 for stage in only.stages)
    assert only.at({"down/spatial_svd": 7}) == pytest.approx(table.at({"down/spatial_svd": 7}))
    with pytest.raises(ValueError, match="the table of latencies holds no times of down; measure it"):
        only.at({"down": 7})


@pytest.mark.parametrize(
    ("methods", "missing"),
    [(CHANNELS, "spatial_svd"), (wb.Methods(tucker=False), "tucker"), (wb.Methods(channels=False), "channels")],
    ids=repr,
)
def test_a_table_without_what_the_search_needs_is_refused(
    study: wb.Study, methods: wb.Methods, missing: str
) -> None:
    table, curves = measured(study, methods=methods), study.sensitivity("predicted")
    words = rf"holds no times of .*{missing}.*, only of {methods.names[0]}.*; measure it with wb.measure_latency\("
    with pytest.raises(ValueError, match=words):
        make_plan(study.graph, curves, wb.Budget(latency_ms=0.6), latency=table)


def test_json_and_the_store(study: wb.Study, table: LatencyTable, tmp_path: Path) -> None:
    """Methods are part of the place; a second call runs nothing."""
    read = LatencyTable.from_dict(json.loads(json.dumps(table.to_dict())))
    assert read.to_dict() == table.to_dict()
    assert read.at({"down": 7, "down/tucker": 5}) == table.at({"down": 7, "down/tucker": 5})
    engine = Counting()
    for methods in (wb.Methods(), CHANNELS):
        first = measured(study, methods=methods, store=tmp_path, engine=engine)
        calls = engine.calls
        assert measured(study, methods=methods, store=tmp_path, engine=engine).to_dict() == first.to_dict()
        assert engine.calls == calls
    assert len(list(tmp_path.glob("latency-*.json"))) == 2
    with pytest.raises(ValueError, match=r"has the format 1, not 2; measure it with wb\.measure_latency"):
        LatencyTable.from_dict(table.to_dict() | {"format": 1})


def test_every_pair_of_a_width_and_a_rank_is_in_one_pass(study: wb.Study) -> None:
    """As many passes as without ranks, whatever the number of methods."""
    bench = Bench.of(study.graph, study.graph.inputs, torch.device("cpu"))
    operations, _ = bench.operations()
    splits, _ = splits_of(bench, operations, sites_of(study.graph, wb.Methods().ranks)[0])
    rows = [row for split in splits for row in split.rows()]
    grids = {group.name: tuple(range(1, LEVELS + 1)) for group in study.graph.exact}
    turns = passes(rows, grids | {split.axis: tuple(range(1, LEVELS + 1)) for split in splits})
    assert len(turns) == LEVELS**2
    for row in (row for row in rows if len(row.axes) == 2):
        assert len({tuple(turn[name] for name in row.axes) for turn in turns}) == LEVELS**2
    assert all(len(rank_grid(split.most)) <= LEVELS for split in splits)


def test_layers_that_read_several_groups_keep_their_price() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(3, 16, 3, padding=1)
            self.after, self.head = nn.Conv2d(32, 5, 3, padding=1), nn.Conv2d(3, 8, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.after(torch.cat([F.relu(self.left(x)), F.relu(self.right(x))], 1)), self.head(x)

    model, x = Joined().eval(), torch.randn(32, 3, 8, 8)
    study = wb.Study(model, x[:2], calibration=[x], methods=wb.Methods(), refinement=None)
    table = measured(study)
    assert table.skipped == ("after",)
    assert table.at({"after/tucker": 2, "left": 9}) == table.at({"left": 9})
    curves = study.sensitivity("predicted")
    (resource,) = width_problem(study.graph, curves, wb.Budget(latency_ms=0.9), latency=table).resources
    names = [curve.group for curve in curves]
    assert {names[choice] for term in resource.terms if term.layer == "after" for choice in term.choices} == {
        "left", "right",
    }  # fmt: skip


def test_whole_blocks_shrink_all_stages() -> None:
    """A width that takes blocks from a grouped layer is on the stage between ranks, too."""
    torch.manual_seed(0)
    convolutions = nn.Conv2d(2, 32, 1), nn.Conv2d(32, 8, 3, padding=1, groups=8), nn.Conv2d(8, 3, 1)
    graph = wb.trace(nn.Sequential(*convolutions).eval(), torch.randn(2, 2, 10, 10))
    table = wb.measure_latency(graph, rounds=1, engine=Counting())  # type: ignore[arg-type]
    core = [stage for stage in table.stages if stage.groups[-1] == "1/tucker"][1]
    assert [len(some) for some in (core.groups, core.widths[0], core.widths[1])] == [2, 7, 2]
    (group,) = graph.exact
    for blocks in core.widths[0]:
        small = factorize_(graph.winnow({group.name: range(blocks)}), [Factored("1", "tucker", 2)], blank=True)
        assert table.at({group.name: blocks, "1/tucker": 2}) == pytest.approx(Counting().of(small))


def test_a_factorised_model_is_timed_beside_the_original(timed: wb.Study, table: LatencyTable) -> None:
    made = timed.compress(timed.by_hand({"down": wb.Rank("tucker", 4)})).model
    found = compare_latency(table, timed.graph, made, {"down/tucker": 4})
    assert found.after.median == pytest.approx(Counting().of(made))
    assert found.before.median == pytest.approx(Counting().of(timed.model))


def test_the_real_engine_times_all_stages(study: wb.Study) -> None:
    table = wb.measure_latency(study.graph, rounds=1, batch=2)
    assert all((stage.ms > 0).all() for stage in table.stages)
    assert table.at({"down/tucker": 3, "grouped/spatial_svd": 4, "first": 5}) > 0
