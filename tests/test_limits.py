"""Limits: the best plan among those that a filter by hand would leave, and one sentence for each that fits nothing."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.models import BY_NAME
from tests.test_plan import curves_of
from workbench import Budget, Limits, Plan, Refused, compress, trace
from workbench.graph.trace import ChannelGraph
from workbench.limits import matching, multiples_of
from workbench.planning import make_plan

TOY = BY_NAME["residual"]
Widths = Mapping[str, int]


@pytest.fixture(scope="module")
def graph() -> ChannelGraph:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 5), nn.ReLU(),
        nn.Linear(5, 3),
    )  # fmt: skip
    return trace(model, torch.zeros(1, 1, 8, 8))


def by_hand(graph: ChannelGraph, holds: Callable[[Widths], bool], share: float = 0.5) -> float:
    """The least loss of all widths within the budget for which ``holds`` is true."""
    curves, dense = curves_of(graph), graph.cost().macs
    best = float("inf")
    for widths in itertools.product(*(range(1, group.units + 1) for group in graph.groups)):
        kept = dict(zip((group.name for group in graph.groups), widths, strict=True))
        a, b, c = (kept[name] for name in ("0", "2", "5"))
        if 36 * 9 * a + 16 * 9 * a * b + 16 * b * c + 3 * c <= share * dense and holds(kept):
            best = min(best, sum(curves[name].at(width) for name, width in kept.items()))
    return best


@pytest.mark.parametrize(
    ("limits", "multiple", "holds"),
    [
        (Limits(), 1, lambda k: True),
        (Limits(minimum={"2": 0.75}), 1, lambda k: k["2"] >= 5),
        (Limits(minimum={"5": 0.6}), 1, lambda k: k["5"] >= 3),
        (Limits(minimum={"conv2d": 4}), 1, lambda k: k["0"] >= 4 and k["2"] >= 4),
        (Limits(keep=("0",)), 1, lambda k: k["0"] == 6),
        (Limits(pinned={"5": 2}), 1, lambda k: k["5"] == 2),
        (Limits(forbidden={"*": (2, 3, 4)}), 1, lambda k: not {2, 3, 4} & set(k.values())),
        (Limits(tied=(("0", "5"),)), 1, lambda k: k["0"] == k["5"]),
        (Limits(tied=(("conv2d",),), minimum={"0": 4}), 1, lambda k: k["0"] == k["2"] >= 4),
        (Limits(), {"*": 2, "linear": 5}, lambda k: k["0"] % 2 == k["2"] % 2 == 0 and k["5"] == 5),
        (Limits(), {"linear": 5, "*": 1, "2": 3}, lambda k: k["2"] % 3 == 0),
    ],
    ids=lambda value: "" if callable(value) else str(value),
)
def test_the_best_of_what_is_left(graph: ChannelGraph, limits: Limits, multiple: Any, holds: Any) -> None:
    budget = Budget(macs=0.5, multiple=multiple)
    plan = make_plan(graph, curves_of(graph), budget, limits=limits)
    assert holds({name: len(units) for name, units in plan.kept.items()})
    assert plan.degradation == pytest.approx(by_hand(graph, holds))
    again = Plan.from_dict(json.loads(json.dumps(plan.to_dict(), allow_nan=False)))
    assert again == plan
    assert (again.limits, again.budget) == (limits, budget)


def test_names_are_those_of_groups_layers_and_kinds(graph: ChannelGraph) -> None:
    assert matching(graph, "conv2d") == ["0", "2"]
    assert matching(graph, "[25]") == ["2", "5"]
    shared = TOY.graph
    stream = next(group.name for group in shared.exact if sum(m.role == "out" for m in group.members) > 2)
    for member in shared[stream].members:  # a residual stream answers to every layer that writes to it
        if member.role == "out" and member.tensor.endswith("weight"):
            assert stream in matching(shared, member.tensor.removesuffix(".weight"))
    assert multiples_of(graph, 4) == {"0": 4, "2": 4, "5": 4}


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"keep": ("7",)}, r"no channel group that can shrink is called '7'; the nearest are .*'?5"),
        ({"minimum": {"conv2": 0.5}}, r"called 'conv2'; the nearest are conv2d"),
        ({"minimum": {"0": 7}}, r"choice '0' has no option >= 7; its options are \(1, 2, 3, 4, 5, 6\)"),
        ({"pinned": {"0": 9}}, "choice '0' has no option equal to 9"),
        ({"forbidden": {"5": (1, 2, 3, 4, 5)}}, "choice '5' has no option outside"),
        ({"tied": (("0", "5"),), "keep": ("0",)}, "have no option in common"),
    ],
)
def test_what_fits_nothing(graph: ChannelGraph, limits: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        make_plan(graph, curves_of(graph), Budget(macs=0.5), limits=Limits(**limits))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"minimum": {"0": 1.5}}, "the minimum of '0' is 1.5; give a share above 0 and below 1, or a number of units"),
        ({"minimum": {"0": 0}}, "the minimum of '0' is 0"),
        ({"minimum": {"0": True}}, "the minimum of '0' is True"),
        ({"pinned": {"0": 0.5}}, "a width of '0' is 0.5; it must be a whole number, 1 or more"),
        ({"forbidden": {"0": (0,)}}, "a width of '0' is 0"),
        ({"keep": "conv1"}, r"keep takes a tuple of names.*try keep=\('conv1',\)"),
        ({"tied": ("a", "b")}, "tied a tuple of such tuples"),
    ],
)
def test_bad_limits_are_refused_in_a_sentence(limits: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Limits(**limits)


def test_limits_are_read_from_texts() -> None:
    read = Limits.parse(
        minimum=["a*=0.25", "b=4"], keep=["c"], pin=["d=32"], forbid=["e=8,16", "f=1"], tie=["g,h", "linear"]
    )
    assert read == Limits(
        {"a*": 0.25, "b": 4}, ("c",), {"d": 32}, {"e": (8, 16), "f": (1,)}, (("g", "h"), ("linear",))
    )
    assert Limits.from_dict(json.loads(json.dumps(read.to_dict()))) == read
    assert repr(Limits(keep=("a",))) == "Limits(keep=('a',))"


@pytest.mark.parametrize("wrong", [{"pin": ["a"]}, {"pin": ["a=x"]}, {"minimum": ["=3"]}, {"forbid": ["a=1,"]}])
def test_bad_texts_are_refused_in_a_sentence(wrong: dict[str, list[str]]) -> None:
    with pytest.raises(ValueError, match="is not NAME=NUMBER; try conv1="):
        Limits.parse(**wrong)


def test_a_budget_takes_a_multiple_for_some() -> None:
    assert Budget.parse("macs=0.5,multiple:head*=16,multiple=8").multiple == {"head*": 16, "*": 8}
    assert Budget.parse("size_bytes=20000,latency_ms=0.5").amounts == {"size_bytes": 20000, "latency_ms": 0.5}
    assert Budget(size_bytes=20000).limit("size_bytes", 50000) == 20000
    assert Budget(size_bytes=0.3).limit("size_bytes", 50001) == 15000
    assert Budget(latency_ms=0.5).limit("latency_ms", 3.0) == 1.5
    with pytest.raises(ValueError, match=r"size_bytes=0 is not a share .* or an amount above 1 in bytes"):
        Budget(size_bytes=0)


def test_all_the_way() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    limits = Limits(tied=(("0", "2"),))
    result = compress(
        model, torch.randn(1, 6), budget=Budget(size_bytes=0.6, activation_bytes=0.9), limits=limits,
        calibration=[torch.randn(64, 6)], refinement=None,
    )  # fmt: skip
    assert result.model[0].out_features == result.model[2].out_features < 16
    assert result.target_met
    assert result.plan.costs == {
        "size_bytes": result.cost.size_bytes, "activation_bytes": result.cost.activation_bytes,
    }  # fmt: skip
    assert result.to_dict()["limits"] == {"tied": (("0", "2"),)}


def test_what_a_model_writes_may_not_follow_from_its_widths() -> None:
    class Choosy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.head = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.hidden(x)
            return self.head(x.relu() if self.hidden.out_features > 5 else x.relu().abs())

    graph = trace(Choosy(), torch.zeros(1, 4))
    with pytest.raises(Refused, match="activation_bytes in Choosy: smaller models run other operations"):
        make_plan(graph, curves_of(graph), Budget(activation_bytes=0.5))


@pytest.mark.parametrize("share", [0.14, np.float64(0.14)])
def test_a_share_of_the_units_is_no_more_than_it_says(share: float) -> None:
    """0.14 x 50 is a little above 7 in floating point."""
    graph = trace(nn.Sequential(nn.Linear(4, 50), nn.ReLU(), nn.Linear(50, 3)), torch.zeros(1, 4))
    plan = make_plan(graph, curves_of(graph), Budget(macs=0.14), limits=Limits(minimum={"0": share}))
    assert len(plan.kept["0"]) == 7
