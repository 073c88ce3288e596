"""Plans: the budget holds on the counted model, widths are multiples, JSON there and back."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch

from tests.models import TOYS, Toy, drawn
from workbench import Budget, Plan, Unreachable, trace, widths
from workbench.allocate.rounding import multiples
from workbench.cost.count import count
from workbench.cost.writes import write_products
from workbench.graph.trace import ChannelGraph
from workbench.planning import make_plan
from workbench.select import Path
from workbench.sensitivity import Curve, Point, SensitivityCurves
from workbench.widths import width_problem


def curves_of(graph: ChannelGraph, seed: int = 0) -> SensitivityCurves:
    """Random convex losses at every width, so that no measurement is needed."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for group in graph.groups:
        slope = torch.rand(1, generator=generator).item() + 0.1
        losses = [slope * (1 - kept / group.units) ** 2 for kept in range(1, group.units)]
        points = [Point(k / group.units, k, 1 - loss, loss) for k, loss in enumerate(losses, 1)]
        order = torch.randperm(group.units, generator=generator).tolist()
        found.append(Curve(group.name, group.units, tuple(points), Path(tuple(order))))
    return SensitivityCurves("score", 1.0, 1, "sha256:0", tuple(found))


@pytest.fixture(params=TOYS, ids=lambda toy: toy.name, scope="module")
def graph(request: pytest.FixtureRequest) -> tuple[Toy, ChannelGraph]:
    return request.param, request.param.graph


@pytest.mark.parametrize(
    "budget",
    [
        Budget(macs=0.6), Budget(params=0.7), Budget(macs=0.8, params=0.6), Budget(macs=0.8, multiple=2),
        Budget(activation_bytes=0.7), Budget(size_bytes=0.7), Budget(macs=0.9, activation_bytes=0.9, size_bytes=0.8),
    ],
    ids=repr,
)  # fmt: skip
def test_the_budget_holds_on_the_counted_model(graph: tuple[Toy, ChannelGraph], budget: Budget) -> None:
    toy, graph_ = graph
    dense = graph_.cost()
    try:
        plan = make_plan(graph_, curves_of(graph_), budget)
    except Unreachable:
        cheapest = count(graph_.winnow({name: [0] for name in toy.groups}), toy.example())
        floor = 2 if budget.multiple > 1 else 1  # widths of a multiple of 2 stop higher up
        least = {name: getattr(cheapest, name) for name in budget.amounts}
        assert floor > 1 or any(cost > budget.limit(name, getattr(dense, name)) for name, cost in least.items())
        return
    cost = count(graph_.winnow(plan.kept), toy.example())
    assert plan.costs == {name: getattr(cost, name) for name in budget.amounts}
    for name, share in budget.amounts.items():
        assert getattr(cost, name) <= share * getattr(dense, name)
    for name, units in plan.kept.items():
        assert len(units) % budget.multiple == 0 or len(units) == toy.groups[name].units
        assert units == tuple(sorted(set(units)))
    assert plan.gap == pytest.approx(0, abs=1e-9)


def test_no_other_widths_lose_less() -> None:
    """Brute force over all widths of a chain, counted on real models."""
    toy = TOYS[0]
    graph = toy.graph
    curves, dense = curves_of(graph, 3), toy.macs(toy.whole)
    for share in (0.3, 0.5, 0.9):
        plan = make_plan(graph, curves, Budget(macs=share))
        best = min(
            sum(curves[name].at(width) for name, width in zip(toy.groups, widths, strict=True))
            for widths in itertools.product(*(range(1, group.units + 1) for group in toy.groups.values()))
            if toy.macs(dict(zip(toy.groups, widths, strict=True))) <= share * dense
        )
        assert plan.degradation == pytest.approx(best, abs=1e-9)
        assert plan.degradation == pytest.approx(sum(curves[k].at(len(v)) for k, v in plan.kept.items()))


def test_the_problem_prices_every_width_exactly(graph: tuple[Toy, ChannelGraph]) -> None:
    toy, graph_ = graph
    problem = width_problem(graph_, curves_of(graph_), Budget(macs=0.5, params=0.5))
    resources = {resource.name: resource for resource in problem.resources}
    for seed in range(5):
        counts = {name: len(units) for name, units in drawn(toy, seed).items()}
        picked = [choice.options.index(counts[choice.name]) for choice in problem.choices]
        assert resources["macs"].cost(picked) == toy.macs(counts)
        assert resources["params"].cost(picked) == toy.params(counts)


def test_all_of_it_keeps_all(graph: tuple[Toy, ChannelGraph]) -> None:
    toy, graph_ = graph
    plan = make_plan(graph_, curves_of(graph_), Budget(macs=1.0))
    assert plan.cut == {}
    assert plan.degradation == 0
    assert {name: len(units) for name, units in plan.kept.items()} == toy.whole


def test_the_units_are_those_that_leave_last() -> None:
    toy = TOYS[0]
    graph = toy.graph
    curves = curves_of(graph)
    plan = make_plan(graph, curves, Budget(macs=0.5))
    for curve in curves:
        kept = plan.kept[curve.group]
        assert set(kept) == set(curve.path.order[curve.units - len(kept) :])


def test_widths_below_what_was_measured_are_not_chosen() -> None:
    toy = TOYS[0]
    graph = toy.graph
    whole = curves_of(graph)
    narrow = SensitivityCurves(
        "score", 1.0, 1, "x", tuple(Curve(c.group, c.units, c.points[3:], c.path) for c in whole)
    )
    assert min(len(units) for units in make_plan(graph, narrow, Budget(macs=0.5)).kept.values()) >= 4
    with pytest.raises(Unreachable):
        make_plan(graph, narrow, Budget(macs=0.1))


def test_a_budget_out_of_reach_names_the_smallest_cost() -> None:
    toy = TOYS[0]
    graph = toy.graph
    smallest = toy.macs({"0": 1, "2": 1})
    with pytest.raises(Unreachable, match=str(smallest)):
        make_plan(graph, curves_of(graph), Budget(macs=0.001))


def test_a_model_without_groups_says_so() -> None:
    graph = trace(torch.nn.Linear(4, 2), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="no channel group"):
        make_plan(graph, curves_of(graph), Budget(macs=0.5))


def test_json_there_and_back() -> None:
    toy = TOYS[2]
    graph = toy.graph
    plan = make_plan(graph, curves_of(graph), Budget(macs=0.5, multiple=2))
    again = Plan.from_dict(json.loads(json.dumps(plan.to_dict(), allow_nan=False)))
    assert again == plan
    assert repr(plan) == repr(again)
    assert repr(plan).startswith("Plan(Budget(macs=0.5, multiple=2): ")
    frame = plan.to_frame()
    assert list(frame["group"]) == list(toy.groups)
    assert all(frame["share"] == frame["kept"] / frame["units"])
    assert "<table" in plan._repr_html_()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"macs": 0.0}, r"the budget macs=0.0 is not a share of the original; give a number above 0 and at most 1"),
        ({"macs": 1.5}, r"macs=1.5 is not a share"),
        ({"params": -0.5}, r"params=-0.5 is not a share"),
        ({"macs": math.nan}, r"macs=nan is not a share"),
        ({"macs": True}, r"macs=True is not a share"),
        ({"macs": "half"}, r"macs='half' is not a share"),
        ({}, r"the budget names nothing; give a share of at least one of macs, params"),
        ({"macs": 0.5, "multiple": 0}, r"the budget's multiple is 0; it must be a whole number, 1 or more"),
        ({"macs": 0.5, "multiple": 2.5}, r"the budget's multiple is 2.5"),
    ],
)
def test_bad_budgets_are_refused_in_a_sentence(values: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Budget(**values)


@pytest.mark.parametrize("text", ["abc", "macs", "macs=abc", "flops=0.5", "macs=0.5;params=0.5", "multiple=1.5", ""])
def test_bad_texts_are_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"try macs=0.5$"):
        Budget.parse(text)


def test_budgets_are_read_from_text() -> None:
    assert Budget.parse("macs=0.5, params=0.25,multiple=8") == Budget(macs=0.5, params=0.25, multiple=8)


def test_multiples() -> None:
    assert multiples(10, 4) == (4, 8, 10)
    assert multiples(3, 8) == (3,)
    assert multiples(4, 1, minimum=3) == (3, 4)


class Heads(torch.nn.Module):
    """Attention whose forward holds the number of its heads."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (torch.nn.Linear(6, 16) for _ in range(3))
        self.out, self.head = torch.nn.Linear(16, 12), torch.nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (layer(x).view(-1, 5, 4, 4).transpose(1, 2) for layer in (self.query, self.key, self.value))
        seen = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return self.head(self.out(seen.transpose(1, 2).reshape(-1, 5, 16)).relu())


def test_what_a_rewritten_forward_writes_besides_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its model may write more than the widths tell: the plan still keeps the budget, at the costs that come out."""
    graph = trace(Heads(), torch.randn(1, 5, 6))
    curves = curves_of(graph)
    dense = graph.cost()
    for lost in (0, 1):  # nothing, then every other tensor that it writes
        monkeypatch.setitem(
            widths.COUNTS, "activation_bytes",
            lambda graph, orders, _, lost=lost: write_products(graph, orders)[:: lost + 1],
        )  # fmt: skip
        plan = make_plan(graph, curves, Budget(activation_bytes=0.8, size_bytes=0.9))
        small = graph.winnow(plan.kept)
        cost = count(small, graph.sample(2))
        assert type(small) is not Heads
        assert plan.costs == {"activation_bytes": cost.activation_bytes, "size_bytes": cost.size_bytes}
        assert cost.activation_bytes <= 0.8 * dense.activation_bytes
        assert cost.size_bytes <= 0.9 * dense.size_bytes


@pytest.mark.parametrize(("share", "dense", "most"), [(0.29, 100, 29), (1 / 3, 30, 10), (0.5, 101, 50), (0.07, 100, 7)])
def test_a_share_loses_no_unit_to_rounding(share: float, dense: int, most: int) -> None:
    """0.29 of 100 is 28.999999999999996 in floating point."""
    assert Budget(macs=share).limit("macs", dense) == most
