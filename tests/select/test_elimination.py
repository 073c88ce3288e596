"""The elimination path: errors equal fresh solves, every choice is the cheapest one, twins go first."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from workbench import trace
from workbench.calibrate import Evidence, calibrate
from workbench.graph.trace import ChannelGraph
from workbench.moments import Moments
from workbench.select import L2, Elimination, GroupView, Path, elimination


def fresh(moments: Moments, ridge: float, gone: set[int]) -> float:
    """The least regularised squared error without some columns, by a solve of its own; ridge on all but the bias."""
    total = 0.0
    for xx, xy, yy in zip(moments.xx, moments.xy, moments.yy, strict=True):
        squares = xx.diagonal()[:-1]
        strength = torch.full((len(xx),), ridge * squares.mean().item(), dtype=torch.float64)
        strength[:-1] += squares.eq(0)
        strength[-1] = 0
        left = [column for column in range(len(xx)) if column not in gone]
        kept = xx[left][:, left] + strength[left].diag()
        total += (yy.sum() - (xy[left] * torch.linalg.solve(kept, xy[left])).sum()).item()
    return total


def loss(view: GroupView, ridge: float, removed: tuple[int, ...]) -> float:
    """The relative error of all layers that read the group, above that with all units."""
    found = 0.0
    for layer in view.consumers:
        moments, columns = view.evidence[layer.name].all, view.columns(layer)
        gone = {column for unit in removed for column in columns[unit]}
        found += (fresh(moments, ridge, gone) - fresh(moments, ridge, set())) / moments.energy
    return found


class Reader(nn.Module):
    """One group of units that three layers read, in blocks of different sizes and in groups."""

    def __init__(self, units: int, grouped: bool):
        super().__init__()
        self.make = nn.Conv2d(3, 2 * units if grouped else units, 1)
        self.one = nn.Conv2d(self.make.out_channels, 4, 3, groups=2 if grouped else 1)
        self.two = nn.Conv2d(self.make.out_channels, 3, 1)
        self.three = nn.Linear(self.make.out_channels * 4, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.make(x).relu()
        pooled = nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)
        return self.one(x).mean((1, 2, 3)), self.two(x).mean((1, 2, 3)), self.three(pooled)


def view_of(units: int, grouped: bool, seed: int) -> tuple[ChannelGraph, GroupView]:
    torch.manual_seed(seed)
    x = torch.randn(24, 3, 5, 5, dtype=torch.float64)
    graph = trace(Reader(units, grouped).double(), x[:2])
    return graph, GroupView.of(graph, "make", calibrate(graph, [x]))


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    units=st.integers(2, 6), grouped=st.booleans(), seed=st.integers(0, 1000), ridge=st.sampled_from((1e-4, 1e-2, 1.0)),
    lag=st.sampled_from((1, 9, 256)),
)  # fmt: skip
def test_every_step_is_the_cheapest_and_its_error_a_fresh_solve(
    units: int, grouped: bool, seed: int, ridge: float, lag: int
) -> None:
    _, view = view_of(units, grouped, seed)
    with mock.patch.object(elimination, "LAG", lag):
        path = Elimination(ridge)(view)
    assert sorted(path.order) == list(range(units))
    assert len(path.errors) == units
    assert path.errors[0] == 0
    for step in range(1, units):
        gone = path.order[:step]
        assert path.errors[step] == pytest.approx(loss(view, ridge, gone), rel=1e-6, abs=1e-10)
        alternatives = [loss(view, ridge, (*gone[:-1], unit)) for unit in range(units) if unit not in gone[:-1]]
        assert path.errors[step] <= min(alternatives) + 1e-9
    assert list(path.errors) == sorted(path.errors)


class Uneven(nn.Module):
    """Two of the units are read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.make, self.read = nn.Linear(3, 5), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.make(x).relu()
        return self.read(torch.cat([x, x[:, 1:3]], 1))


@pytest.mark.parametrize("lag", [1, 256])
def test_units_of_different_width(lag: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elimination, "LAG", lag)
    torch.manual_seed(0)
    x = torch.randn(40, 3, dtype=torch.float64)
    graph = trace(Uneven().double(), x[:2])
    view = GroupView.of(graph, "make", calibrate(graph, [x]))
    path = Elimination(1e-2)(view)
    assert sorted(map(len, view.columns(view.consumers[0]))) == [1, 1, 1, 2, 2]
    for step in range(1, 5):
        assert path.errors[step] == pytest.approx(loss(view, 1e-2, path.order[:step]), rel=1e-6)


def test_one_of_two_twins_costs_nothing_and_leaves_first() -> None:
    graph, _ = view_of(6, False, 0)
    model = graph.model
    with torch.no_grad():
        for tensor in (model.make.weight, model.make.bias):
            tensor[4] = tensor[1]
    x = torch.randn(24, 3, 5, 5, dtype=torch.float64)
    graph = trace(model, x)
    path = Elimination(1e-10)(GroupView.of(graph, "make", calibrate(graph, [x])))
    assert path.order[0] in (1, 4)
    assert path.errors[1] < 1e-6
    assert path.errors[2] > 1e-4


def test_dead_units_leave_first_and_cost_nothing() -> None:
    graph, _ = view_of(6, True, 1)
    model = graph.model
    with torch.no_grad():
        for dead in (2, 8):  # both members of unit 2
            model.make.weight[dead], model.make.bias[dead] = 0, -1
    x = torch.randn(24, 3, 5, 5, dtype=torch.float64)
    graph = trace(model, x)
    path = Elimination()(GroupView.of(graph, "make", calibrate(graph, [x])))
    assert path.order[0] == 2
    assert path.errors[1] == pytest.approx(0, abs=1e-12)


def test_all_inputs_dead() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(-1)
    graph = trace(model, torch.zeros(2, 3))
    path = Elimination()(GroupView.of(graph, "0", calibrate(graph, [torch.randn(16, 3)])))
    assert sorted(path.order) == [0, 1, 2, 3]
    assert all(error == pytest.approx(0, abs=1e-9) for error in path.errors)


def test_the_same_statistics_give_the_same_path() -> None:
    graph, view = view_of(6, False, 3)
    assert Elimination()(view) == Elimination()(GroupView.of(graph, "make", calibrate(graph, [torch.cat(
        [torch.zeros(0, 3, 5, 5).double(), _again()])])))  # fmt: skip


def _again() -> Tensor:
    torch.manual_seed(3)
    return torch.randn(24, 3, 5, 5, dtype=torch.float64)


def test_magnitude_sums_all_weights_that_make_a_unit() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Linear(2, 3), nn.Linear(2, 3), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.a(x) + self.b(x))

    model = Sum()
    with torch.no_grad():
        model.a.weight.copy_(torch.tensor([[3.0, 0], [0, 1], [2, 2]]))
        model.b.weight.copy_(torch.tensor([[0.0, 0], [4, 0], [1, -1]]))
        model.a.bias.copy_(torch.tensor([0.0, 0, 100]))  # a bias is no measure
    graph = trace(model, torch.zeros(2, 2))  # squares: 9, 17, 10
    path = L2()(GroupView.of(graph, "a", calibrate(graph, [torch.randn(8, 2)])))
    assert path == Path((0, 2, 1))
    assert path.errors == ()


def test_a_path_keeps_what_leaves_last_in_order() -> None:
    path = Path((3, 0, 4, 1, 2))
    assert [path.kept(count) for count in (1, 2, 5)] == [(2,), (1, 2), (0, 1, 2, 3, 4)]


def test_columns_follow_units_through_kernels() -> None:
    _, view = view_of(3, True, 0)
    by_layer = {layer.name: view.columns(layer) for layer in view.consumers}
    assert by_layer["one"][1] == tuple(range(9, 18))  # position 1 of each block of 3, 3 x 3 kernel
    assert by_layer["two"][1] == (1, 4)
    assert by_layer["three"][1] == (*range(4, 8), *range(16, 20))


def test_evidence_is_needed_of_each_reader() -> None:
    _, view = view_of(3, False, 0)
    assert all(isinstance(evidence, Evidence) for evidence in view.evidence.values())
    assert view.evidence.keys() == {"one", "two", "three"}


class Normed(nn.Module):
    """The layer that reads the group computes its weight: no least-squares error is known."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 8)
        self.second = nn.Parameter(torch.randn(3, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(self.first(x).relu(), 2 * self.second)


def test_without_a_reader_to_repair_units_leave_by_magnitude() -> None:
    graph = trace(Normed(), torch.randn(2, 5))
    statistics = calibrate(graph, [torch.randn(16, 5)])
    view = GroupView.of(graph, "first", statistics)
    assert Elimination()(view) == L2()(view)
