"""Sensitivity: a suffix run equals the whole model, opaque scores give the same points; curves interpolate."""

from __future__ import annotations

import copy
import itertools
import json
import math
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from tests.models import TOYS, Toy, call
from workbench import trace
from workbench.calibrate import calibrate
from workbench.evaluation import Evaluation, whole_score
from workbench.graph.tensors import set_tensors_
from workbench.graph.trace import ChannelGraph
from workbench.select import L2, Elimination, GroupView, Path
from workbench.sensitivity import Curve, Point, SensitivityCurves, run, sensitivity
from workbench.sensitivity.candidate import candidates, first_change, ridges_at
from workbench.sensitivity.interval import critical, standard_error

SHARES = (0.3, 0.5, 0.8)


def energy(output: Any, _batch: Any) -> Tensor:
    """A smooth score a sample of any output."""
    leaves = [leaf for leaf in pytree.tree_leaves(output) if leaf.is_floating_point()]
    return -sum(leaf.flatten(1).square().mean(1) for leaf in leaves)


def evaluation(batches: list[Any]) -> Evaluation:
    return Evaluation(batches, energy, inputs=lambda batch: batch, name="energy")


@pytest.fixture(params=TOYS, ids=lambda toy: toy.name)
def toy(request: pytest.FixtureRequest) -> Toy:
    return request.param


def test_suffix_runs_equal_the_whole_model(toy: Toy) -> None:
    """Of every candidate, a copy of the model that holds its tensors scores the same, sample by sample."""
    graph, model = toy.graph, toy.graph.model
    batches = [toy.example(5, seed) for seed in range(3)]
    statistics = calibrate(graph, batches)
    curves = sensitivity(graph, statistics, evaluation(batches), shares=SHARES)
    dense = whole_score(evaluation(batches), model)
    assert curves.baseline == pytest.approx(dense.mean(), rel=1e-10)
    assert curves.samples == 15
    for curve in curves:
        widths = [point.kept for point in curve.points]
        ridges = ridges_at(graph, curve.group, curve.path, statistics, widths[len(widths) // 2]) if widths else {}
        made = candidates(
            graph, {curve.group: curve.path}, [((curve.group, width),) for width in widths], statistics, ridges
        )
        for point, candidate in zip(curve.points, made, strict=True):
            copied = copy.deepcopy(model)
            set_tensors_(copied, candidate.tensors)
            scores = whole_score(evaluation(batches), copied)
            assert point.score == pytest.approx(scores.mean(), rel=1e-9, abs=1e-12)
            assert point.degradation == pytest.approx((dense - scores).mean(), rel=1e-7, abs=1e-10)


def test_an_opaque_function_gives_the_same_points(toy: Toy) -> None:
    graph, batches = toy.graph, [toy.example(8)]
    statistics = calibrate(graph, batches)
    sampled = sensitivity(graph, statistics, evaluation(batches), shares=SHARES)
    opaque = sensitivity(graph, statistics, lambda m: energy(call(m, batches[0]), None), shares=SHARES)
    for one, other in zip(sampled, opaque, strict=True):
        assert one.path == other.path
        for a, b in zip(one.points, other.points, strict=True):
            assert (a.share, a.kept) == (b.share, b.kept)
            assert (a.score, a.degradation, a.low, a.high) == pytest.approx(
                (b.score, b.degradation, b.low, b.high), abs=1e-9
            )


def mlp() -> tuple[ChannelGraph, Any, list[Tensor]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 3)).double()
    batches = list(torch.randn(64, 6, dtype=torch.float64).split(16))
    graph = trace(model, batches[0])
    return graph, calibrate(graph, batches), batches


def test_the_callers_model_is_untouched() -> None:
    graph, statistics, batches = mlp()
    graph.model.train()
    state = {name: tensor.clone() for name, tensor in graph.model.state_dict().items()}
    for evaluate in (evaluation(batches), lambda m: m(batches[0]).mean()):
        sensitivity(graph, statistics, evaluate)
        assert graph.model.training
        assert all(torch.equal(state[name], tensor) for name, tensor in graph.model.state_dict().items())


def test_twice_the_same_is_byte_equal() -> None:
    graph, statistics, batches = mlp()
    one, other = (sensitivity(graph, statistics, evaluation(batches)) for _ in range(2))
    assert json.dumps(one.to_dict()) == json.dumps(other.to_dict())
    assert one.fingerprint == other.fingerprint


def test_a_candidate_is_run_from_its_first_change_on() -> None:
    graph, *_ = mlp()
    nodes = [node.name for node in graph.program.nodes]
    layers = {layer.name: layer.node for layer in graph.layers}
    assert first_change(graph.program, {layers["4"]}) == nodes.index(layers["4"])
    placeholder = {tensor: name for name, tensor in graph.program.state.items()}
    assert first_change(graph.program, {placeholder["2.weight"]}) == nodes.index(layers["2"])
    assert first_change(graph.program, set()) == len(nodes)


class Deep(nn.Module):
    """Layers that each make another megabyte of a sample."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()) for _ in range(12)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.expand(-1, 4, 256, 256)).mean((2, 3))


def test_a_sweep_holds_no_more_than_a_run_does() -> None:
    """Not the values of all layers, whose number knows no bound."""
    batch = torch.randn(4, 4, 1, 1)
    graph = trace(Deep(), batch)
    statistics = calibrate(graph, [batch])
    held: list[int] = []
    compute = run.compute_masked

    def watched(node: Any, values: Any, stays: Any) -> Any:
        held.append(sum(value.numel() for value in values.values() if isinstance(value, Tensor)))
        return compute(node, values, stays)

    with mock.patch.object(run, "compute_masked", watched):
        sensitivity(graph, statistics, evaluation([batch]), shares=(0.5,))
    assert max(held) < 4 * 4 * 4 * 256 * 256


def test_a_candidate_without_a_score_is_a_failed_point() -> None:
    graph, statistics, _ = mlp()
    scores = itertools.chain([1.0], itertools.repeat(math.nan))
    curves = sensitivity(graph, statistics, lambda model: next(scores))
    points = [point for curve in curves for point in curve.points]
    assert {point.failed for point in points} == {"the evaluation returned nan"}
    assert all(point.score is None and point.degradation is None for point in points)
    assert all(curve.fitted == () for curve in curves)
    assert curves["0"].at(11) == math.inf
    assert curves["0"].at(12) == 0
    json.dumps(curves.to_dict(), allow_nan=False)
    assert len(curves.to_frame()) == 18


@pytest.mark.parametrize("sampled", [True, False])
def test_an_evaluation_that_raises_on_a_candidate_is_a_failed_point(sampled: bool) -> None:
    graph, statistics, batches = mlp()
    calls = itertools.count()

    def fussy(*_: Any) -> Tensor:
        if next(calls):  # the first is the original
            raise RuntimeError("too small for me")
        return torch.ones(16)

    curves = sensitivity(graph, statistics, Evaluation(batches[:1], fussy) if sampled else fussy)
    points = [point for curve in curves for point in curve.points]
    assert {point.failed for point in points} == {"the evaluation raised RuntimeError: too small for me"}
    json.dumps(curves.to_dict(), allow_nan=False)


def test_a_layer_that_runs_twice_is_swept_as_it_will_be_applied() -> None:
    """Unrepaired: its weight only loses columns."""
    toy = next(toy for toy in TOYS if toy.name == "called-twice")
    statistics = calibrate(toy.graph, [toy.example(8)])
    shared = [layer for layer in toy.graph.layers if not toy.graph.runs_once(layer)]
    assert shared
    for group in toy.graph.groups:
        path = Elimination()(GroupView.of(toy.graph, group.name, statistics))
        width = max(path.least, group.units // 2)
        ridges = ridges_at(toy.graph, group.name, path, statistics, width)
        for candidate in candidates(toy.graph, {group.name: path}, [((group.name, width),)], statistics, ridges):
            for layer in shared:
                if layer.weight in candidate.tensors:
                    new, old = candidate.tensors[layer.weight], toy.graph.program.tensors[layer.weight]
                    assert torch.equal(new[new != 0], old[new != 0])


def test_the_whole_group_is_no_candidate_and_shares_are_what_is_kept() -> None:
    graph, statistics, batches = mlp()
    curves = sensitivity(graph, statistics, evaluation(batches), shares=(0.25, 0.5, 0.99))
    assert [(p.kept, p.share) for p in curves["0"].points] == [(3, 0.25), (6, 0.5)]


@pytest.mark.parametrize("where", ["sampled", "opaque"])
def test_a_baseline_without_a_score_is_refused(where: str) -> None:
    graph, statistics, batches = mlp()
    broken = Evaluation(batches, lambda o, b: o[:, 0] * math.nan, name="broken")
    with pytest.raises(ValueError, match=r"returned nan for the original model.*it must return finite numbers"):
        sensitivity(graph, statistics, broken if where == "sampled" else lambda m: math.nan)


def test_an_evaluation_without_data_is_refused() -> None:
    graph, statistics, _ = mlp()
    with pytest.raises(ValueError, match="'empty' has no data; give it at least one batch"):
        sensitivity(graph, statistics, Evaluation([], lambda o, b: o[:, 0], name="empty"))


def test_another_criterion() -> None:
    graph, statistics, batches = mlp()
    curves = sensitivity(graph, statistics, evaluation(batches), criterion=L2())
    assert all(point.predicted is None for curve in curves for point in curve.points)
    assert curves["0"].path != sensitivity(graph, statistics, evaluation(batches), criterion=Elimination())["0"].path


def test_a_model_without_groups_has_no_curves() -> None:
    graph = trace(nn.Linear(6, 3).double(), torch.zeros(2, 6).double())
    batches = [torch.randn(8, 6).double()]
    assert list(sensitivity(graph, calibrate(graph, batches), evaluation(batches))) == []


# --- curves as values


def curve(losses: dict[int, float | None], units: int = 10, errors: tuple[float, ...] = ()) -> Curve:
    points = [
        Point(
            kept / units, kept, None if loss is None else 1 - loss, loss, failed="no number" if loss is None else None
        )
        for kept, loss in sorted(losses.items())
    ]
    return Curve("g", units, tuple(points), Path(tuple(range(units)), errors))


def test_points_are_paired_differences() -> None:
    dense, differences = np.array([1.0, 0, 1, 1]), np.array([0.0, 0, 1, 0])
    point = Point.of(5, 10, dense, differences, 3, 1.0)
    assert (point.score, point.degradation, point.samples) == (0.5, 0.25, 4)
    assert point.deviation == standard_error(differences)
    margin = critical(4, 3) * point.deviation
    assert (point.low, point.high) == pytest.approx((0.25 - margin, 0.25 + margin))
    alone = Point.of(5, 10, np.array([0.9]), np.array([0.2]), 1, 0.0)
    assert (alone.degradation, alone.low, alone.deviation) == (pytest.approx(0.2), None, None)


def test_the_fit_is_isotonic_and_never_negative() -> None:
    assert curve({2: 0.5, 4: 0.1, 6: 0.3, 8: -0.2}).fitted == pytest.approx((0.5, 0.2, 0.2, 0.0))
    assert curve({2: 0.5, 4: None, 6: 0.1}).fitted == pytest.approx((0.5, 0.1))


def test_interpolation_passes_through_the_points() -> None:
    found = curve({2: 0.8, 6: 0.4})
    assert [found.at(kept) for kept in (2, 3, 6, 8, 10)] == pytest.approx([0.8, 0.7, 0.4, 0.2, 0.0])
    assert found.at(1) == math.inf


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    losses=st.dictionaries(st.integers(1, 11), st.none() | st.floats(-1, 1), max_size=9),
    steps=st.none() | st.lists(st.floats(0, 1), min_size=11, max_size=11),
)
def test_curves_fall_with_width(losses: dict[int, float | None], steps: list[float] | None) -> None:
    found = curve(losses, 12, tuple(np.cumsum([0.0, *steps])) if steps else ())
    values = [found.at(kept) for kept in range(1, 13)]
    assert all(low >= high for low, high in itertools.pairwise(values))
    assert values[-1] == 0
    assert all(value >= 0 for value in values)
    known = [kept for kept, loss in losses.items() if loss is not None]
    assert all(math.isfinite(v) == bool(known and kept >= min(known)) for kept, v in enumerate(values[:-1], 1))
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert len(json.loads(text)["points"]) == len(losses)


def test_curves_print_themselves() -> None:
    curves = SensitivityCurves("accuracy", 0.91234, 100, "sha256:0", (curve({2: 0.5, 6: 0.1}),))
    assert repr(curves) == "SensitivityCurves(1 groups, accuracy on 100 samples, original 0.9123)"
    assert curves["g"] is next(iter(curves))
    with pytest.raises(KeyError, match="no curve for 'x'; there are curves for g"):
        curves["x"]
    frame = curves.to_frame()
    assert list(frame["kept"]) == [2, 6]
    assert list(frame["fitted"]) == [0.5, 0.1]
    assert "<table" in curves._repr_html_()


def test_no_curves_are_an_empty_table() -> None:
    none = SensitivityCurves("accuracy", 0.9, 100, "sha256:0", ())
    some = SensitivityCurves("accuracy", 0.9, 100, "sha256:0", (curve({2: 0.5, 6: 0.1}),))
    assert list(none.to_frame().columns) == list(some.to_frame().columns)
    assert len(none.to_frame()) == len(none.to_table()) == len(none.ranking()) == 0


def test_curves_draw_themselves() -> None:
    import matplotlib as mpl

    mpl.use("agg")
    curves = SensitivityCurves("accuracy", 0.9, 100, "sha256:0", (curve({2: 0.5, 6: 0.1}),))
    axes = curves.plot()
    assert list(axes.lines[0].get_xdata()) == [0.2, 0.6]
    assert list(axes.lines[0].get_ydata()) == [0.5, 0.1]
    assert axes.get_ylabel() == "loss of accuracy"


def test_the_ranking_shows_ties() -> None:
    def curve(name: str, loss: float, half: float | None, predicted: float | None = None) -> Curve:
        low, high = (None, None) if half is None else (loss - half, loss + half)
        point = Point(0.5, 4, 1 - loss, loss, low, high) if predicted is None else Point(0.5, 4, predicted=predicted)
        return Curve(name, 8, (Point(0.25, 2, 0.0, 1.0), point), Path(tuple(range(8)), (), (), 1))

    some = [curve("sure", 0.5, 0.01), curve("b", 0.2, 0.05), curve("a", 0.1, 0.08), curve("least", 0.001, 0.001),
            curve("guess", 0.0, None, predicted=0.3)]  # fmt: skip
    unknown = Curve("unknown", 8, (Point(0.5, 4, failed="it raised"),), some[0].path)
    curves = SensitivityCurves("accuracy", 1.0, 100, "", (*some, unknown))
    found = curves.ranking()
    assert list(zip(found["rank"], found["group"], strict=True)) == [
        ("1", "least"), ("2-4", "a"), ("2-4", "b"), ("2-4", "guess"), ("5", "sure"), ("", "unknown"),
    ]  # fmt: skip
    assert found["loss"][:5].tolist() == [0.001, 0.1, 0.2, 0.3, 0.5]


def test_a_prediction_that_is_far_too_small_does_not_outweigh_what_was_measured() -> None:
    path = Path(tuple(range(8)))
    low = Curve("a", 8, (Point(0.5, 4, degradation=0.3, predicted=0.03, deviation=0.05),), path)
    near = Curve("a", 8, (Point(0.5, 4, degradation=0.03, predicted=0.3, deviation=0.5),), path)
    assert low.fitted[0] > 0.25
    assert near.fitted[0] > 0.25  # nor does what was hardly measured outweigh the prediction
