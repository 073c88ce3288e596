"""The search: which points it measures, on how many samples, and what it makes of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from workbench import Budget, Study, trace
from workbench.calibrate import calibrate
from workbench.evaluation import Evaluation, Fidelity
from workbench.sensitivity import Search, SensitivityCurves
from workbench.sensitivity.interval import LEVEL, critical, standard_error
from workbench.sensitivity.sample import FIRST, Sample, looks
from workbench.zoo import task


def fall(output: Tensor, batch: Any) -> Tensor:
    """A score that any change lowers."""
    return -(output - batch[1]).square().sum(1)


def made(samples: int = 700, size: int = 100) -> tuple[nn.Module, Evaluation, list[Tensor]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)).double()
    x = torch.randn(samples, 6).double()
    with torch.no_grad():
        y = model(x)
    return model, Evaluation(list(zip(x.split(size), y.split(size), strict=True)), fall, name="fall"), [x[:256]]


def searching(samples: int = 700, **options: Any) -> Search:
    model, evaluate, data = made(samples)
    graph = trace(model, data[0])
    return Search(graph, calibrate(graph, data, needs={"fisher"}), evaluate, **options)


@dataclass(frozen=True)
class Fixed:
    """A plan that somebody made."""

    places: tuple[tuple[str, int], ...]
    degradation: float


# --- blocks of samples


@pytest.mark.parametrize("count", [1, 100, 191, 192, 300, 700, 2000, 10_000])
def test_looks_double_what_was_seen_and_end_with_all(count: int) -> None:
    found = looks(count)
    assert found[-1] == count
    assert found[:-1] == [FIRST << step for step in range(len(found) - 1)]
    assert len(found) == 1 or count >= 1.5 * found[-2]


def test_blocks_are_all_samples_once_in_the_order_of_the_data() -> None:
    model, evaluate, _ = made()
    sample = Sample.of(trace(model, torch.randn(2, 6).double()), evaluate, 0)
    assert sample.blocks == len(looks(700))
    whole = torch.cat([x for x, _ in evaluate.batches])
    seen = []
    for block in range(sample.blocks):
        batches = list(sample.batches(block))
        rows = torch.cat([x for x, _ in batches])
        torch.testing.assert_close(rows, whole[sample.block == block])
        assert all(len(x) >= 100 for x, _ in batches[:-1])
        seen.append(rows)
    assert len(torch.cat(seen).unique(dim=0)) == 700
    assert [len(rows) for rows in seen] == np.diff([0, *looks(700)]).tolist()


def test_a_block_is_a_draw_even_where_the_data_is_sorted() -> None:
    model, evaluate, _ = made(2000)
    sample = Sample.of(trace(model, torch.randn(2, 6).double()), evaluate, 0)
    first = np.flatnonzero(sample.block == 0)
    assert abs(first.mean() - 1000) < 4 * 2000 / math.sqrt(12 * FIRST)
    assert len(set(first // 100)) > 15


@pytest.mark.parametrize("kind", ["names", "few labels"])
def test_batches_that_cannot_be_cut_are_taken_whole(kind: str) -> None:
    model, evaluate, _ = made()
    more = {"names": "a batch of mine", "few labels": torch.zeros(3)}[kind]
    whole = Evaluation([(*batch, more) for batch in evaluate.batches], fall)
    sample = Sample.of(trace(model, torch.randn(2, 6).double()), whole, 0)
    assert sample.blocks == 1
    assert [len(batch) for batch in sample.batches(0)] == [3] * 7


# --- intervals


def test_intervals_hold_under_the_rule_that_stops_them() -> None:
    """At least 93 of 100 cover the mean of all the data, whatever the losses are like and however narrow is asked."""
    draw = np.random.default_rng(0)
    count = 2000
    kinds = {
        "rare misses": (draw.random(count) < 0.02) * 1.0 - (draw.random(count) < 0.005) * 1.0,
        "very rare misses": (draw.random(count) < 0.004) * 1.0,
        "skewed": draw.exponential(1.0, count) ** 2 - 0.5,
        "even": draw.standard_normal(count) + 0.2,
    }
    for kind, values in kinds.items():
        held = 0
        for repeat in range(200):
            order, precision = np.random.default_rng(repeat).permutation(values), (0.25, 1.0)[repeat % 2]
            for seen in looks(count):
                some = order[:seen]
                margin = critical(seen, len(looks(count))) * standard_error(some, resolution=1.0)
                if margin <= precision * abs(some.mean()):
                    break
            held += abs(some.mean() - values.mean()) <= margin
        assert held >= 186, f"{kind}: {held} of 200"


def test_more_looks_are_paid_for() -> None:
    assert critical(10_000, 1) == pytest.approx(1.96, abs=0.001)
    assert critical(10_000, 5) == pytest.approx(2.576, abs=0.001)
    assert LEVEL == 0.05


def test_samples_that_all_agree_are_not_certain() -> None:
    assert standard_error(np.zeros(100), resolution=1.0) == pytest.approx(math.sqrt(2 / 101 / 100))
    assert standard_error(np.zeros(100)) == 0


# --- what is measured


def test_predicted_measures_nothing_and_orders_all_widths() -> None:
    found = searching()
    curves = found.run("predicted")
    assert found.measured.scores == {}
    for curve in curves:
        assert all(point.samples == 0 and point.degradation is None for point in curve.points)
        assert list(curve.fitted) == sorted(curve.fitted, reverse=True)
        assert curve.fitted[0] > 0


def test_measured_measures_every_point_until_it_is_settled() -> None:
    found = searching()
    curves = found.run("measured", lambda curves: [Fixed((("0", 8), ("2", 6)), 1e9)])
    assert {point.samples for curve in curves for point in curve.points} == {FIRST}  # beside such a plan all is settled
    curves = found.run("measured")
    for point in (point for curve in curves for point in curve.points):
        narrow = (point.high - point.low) / 2 <= 0.25 * abs(point.degradation)
        assert point.samples == 700 or narrow
    assert any(point.samples < 700 for curve in curves for point in curve.points)


def test_auto_measures_what_the_plan_hangs_on(monkeypatch: pytest.MonkeyPatch) -> None:
    found = searching()
    monkeypatch.setattr(found, "_anchors", lambda places: [])
    curves = found.run("auto", lambda curves: [Fixed((("0", 8),), 1.0)])
    measured = {(curve.group, point.kept) for curve in curves for point in curve.points if point.samples}
    assert measured == {("0", 8), ("2", 11)}  # the chosen width, and the widest one of the group that stays whole
    again = found.run("auto", lambda curves: [Fixed((("0", 7),), 1.0)])
    measured = {(curve.group, point.kept) for curve in again for point in curve.points if point.samples}
    assert measured == {("0", 8), ("0", 6), ("2", 11)}  # on both sides; what was measured stays


def test_what_cannot_be_predicted_is_measured() -> None:
    search = searching(samples=300)
    name = next(iter(search.expected))
    search.expected[name] = ()  # as of a group that no layer with a weight reads
    curves = search.run("auto")
    assert all(point.degradation is not None for point in curves[name].points)
    assert len([p for curve in curves for p in curve.points if p.degradation is None]) > 0


def test_no_more_is_measured_where_the_prediction_says_more() -> None:
    model, evaluate, data = made(3000)
    draw = torch.Generator().manual_seed(0)
    noisy = Evaluation(
        [(x, y, 1e3 * torch.randn(len(x), generator=draw)) for x, y in evaluate.batches],
        lambda output, batch: fall(output, batch) + batch[2] * (output - batch[1]).square().sum(1).sqrt(),
    )
    graph = trace(model, data[0])
    found = Search(graph, calibrate(graph, data, needs={"fisher"}), noisy)
    curves = found.run("auto", lambda curves: [Fixed((("0", 8),), 1e-9)])
    (point,) = [point for point in curves["0"].points if point.kept == 8]
    assert 0 < point.samples < 3000
    assert point.high - point.low > abs(point.degradation)


def test_predictions_take_the_unit_of_what_was_measured() -> None:
    """From few points whose losses are large, whatever the plan asks for."""
    found = searching(2000)
    curves = found.run("auto")
    measured = [point for curve in curves for point in curve.points if point.samples]
    assert 4 <= len(measured) <= 8
    exact = {(c.group, p.kept): p.degradation for c in searching(2000).run("measured") for p in c.points}
    for curve in curves:
        for point in curve.points:
            assert point.predicted == pytest.approx(exact[curve.group, point.kept], rel=1.0)


def test_a_search_goes_on_where_it_stopped() -> None:
    calls = []

    class Counting(Search):
        def measure(self, places: Any) -> None:
            calls.append(len(places))
            super().measure(places)

    model, evaluate, data = made()
    graph = trace(model, data[0])
    found = Counting(graph, calibrate(graph, data), evaluate)
    first = found.run("measured")
    before = len(calls)
    assert found.run("measured").to_dict() == first.to_dict()
    assert len(calls) == before + 1  # of no point
    assert calls[-1] == 0


def test_a_cap_on_memory_changes_no_byte() -> None:
    wide, narrow = searching(), searching(memory=1)
    assert narrow.run("measured").to_dict() == wide.run("measured").to_dict()
    assert narrow.measured.candidates.tensors.memory.files > 0


def test_an_unknown_mode() -> None:
    with pytest.raises(ValueError, match="there is no mode 'guess'; choose from auto, measured, predicted"):
        searching().run("guess")


def test_without_the_fisher_information_the_curves_say_so() -> None:
    class Chosen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x).argmax(1)

    x = torch.randn(64, 6)
    graph = trace(Chosen(), x)
    evaluate = Evaluation([(x,)], lambda output, batch: output.double())
    curves = Search(graph, calibrate(graph, [x], needs={"fisher"}), evaluate).run("predicted")
    assert curves.note.startswith("predicted from the output error alone, without the Fisher information (ValueError: ")
    assert curves["layers.0"].fitted[0] > 0


# --- through the study


def study_of() -> Study:
    model, evaluate, data = made()
    return Study(model, data[0][:1], calibration=data, evaluate=evaluate, refinement=None)


def test_a_study_measures_for_the_budget_that_is_asked_for() -> None:
    study = study_of()
    study.allocate(Budget(macs=0.5))
    few = len(study.search.measured.scores)
    assert 0 < few < 30
    study.sensitivity("measured")
    assert len(study.search.measured.scores) == 30
    other = study_of()
    other.sensitivity("predicted")
    plan = other.allocate(Budget(macs=0.5))
    assert other.search.measured.scores == {}
    assert plan.degradation > 0
    assert other.compress(plan).target_met


def test_a_budget_out_of_reach_is_told_by_who_asks_for_it() -> None:
    study = study_of()
    with pytest.raises(Exception, match=r"smallest|reach"):
        study.allocate(Budget(macs=0.001))
    curves = study.sensitivity("auto", [Budget(macs=0.001)])
    assert isinstance(curves, SensitivityCurves)


@pytest.mark.slow
def test_predictions_rank_as_measurements_do() -> None:
    """Over all points, and within each share across layers; ``benchmarks/ranking.py`` prints it for the whole zoo."""
    from scipy.stats import spearmanr

    study = task.study("vgg")
    predicted = {(c.group, p.kept): p.predicted for c in study.sensitivity("predicted") for p in c.points}
    batches = list(study.evaluate.batches)
    precise = Search(study.graph, study.statistics, Fidelity([batch[0] for batch in batches]))
    for _ in range(precise.sample.blocks):
        precise.measure([(group, kept) for group, widths in precise.widths.items() for kept in widths])
    points = [(p.share, predicted[c.group, p.kept], p.degradation) for c in precise.curves() for p in c.points]
    share, guess, loss = np.array(points).T
    assert spearmanr(guess, loss)[0] >= 0.9
    for tenth in range(1, 10):
        some = np.abs(share - tenth / 10) < 0.05
        if some.sum() > 3:
            assert spearmanr(guess[some], loss[some])[0] >= 0.7, tenth
