"""Fronts and the slider over them: every plan is the one that its budget alone gives, and the figures follow."""

from __future__ import annotations

import importlib.util
import json
import re
from typing import Any

import pytest
import torch
from torch import nn

import workbench as wb
from workbench import extras
from workbench.front import Front
from workbench.planning import make_plan


@pytest.fixture(scope="module")
def study() -> wb.Study:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 16), nn.ReLU(),
        nn.Linear(16, 4),
    )  # fmt: skip
    x = torch.randn(48, 1, 8, 8)
    return wb.Study(model, x[:1], calibration=[x], refinement=None, name="toy")


@pytest.fixture(scope="module")
def front(study: wb.Study) -> Front:
    return study.front(budgets=100)


def test_each_plan_is_that_of_its_budget(study: wb.Study, front: Front) -> None:
    assert len(front) == 100
    assert front.shares[-1] == 1
    curves = study.sensitivity()
    for share, plan in list(zip(front.shares, front, strict=True))[::9]:
        assert plan.costs["macs"] <= share * front.dense * (1 + 1e-9)
        alone = make_plan(study.graph, curves, wb.Budget(macs=share))
        assert plan.degradation == pytest.approx(alone.degradation)
        assert plan.gap == pytest.approx(0, abs=1e-9)
    losses = [plan.degradation for plan in front]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == 0


def test_what_it_tells(front: Front) -> None:
    frame = front.to_frame()
    assert list(frame.columns[:4]) == ["budget", "cost", "loss", "score"]
    assert (frame["cost"] <= frame["budget"] + 1e-9).all()
    assert list(frame["5"]) == [plan.options["5"] for plan in front]
    assert (frame["score"] == front.baseline - frame["loss"]).all()
    assert list(front.plot().lines[0].get_xdata()) == list(frame["cost"])
    assert re.fullmatch(r"Front\(100 budgets of macs, 0\.\d{3} to 1\.000 of .*\)", repr(front))
    assert "<table" in front._repr_html_()
    json.dumps(front.to_dict(), allow_nan=False)


def test_given_shares_multiples_and_limits(study: wb.Study) -> None:
    limits = wb.Limits(keep=("0",))
    some = study.front("params", [0.9, 0.5, 0.7], multiple={"conv2d": 4}, limits=limits)
    assert some.shares == (0.5, 0.7, 0.9)
    assert all(plan.options["0"] == 8 and plan.options["2"] % 4 == 0 for plan in some)


@pytest.mark.parametrize(
    ("budgets", "error", "words"),
    [
        (1, ValueError, "a front of 1 budgets is none"),
        ([], ValueError, "a front of no budgets is none; give at least one share"),
        ([0.5, 1.5], ValueError, "macs=1.5 is not a share"),
        ([0.001], wb.Unreachable, "out of reach"),
    ],
)
def test_bad_budgets(study: wb.Study, budgets: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        study.front(budgets=budgets)


def test_a_cost_that_there_is_not(study: wb.Study) -> None:
    with pytest.raises(ValueError, match="there is no cost called 'flops'; choose from macs, params"):
        study.front("flops")
    with pytest.raises(ValueError, match="there is no cost called 'flops'"):
        study.explore("flops")


def test_the_report_shows_it_with_the_plan_marked(study: wb.Study) -> None:
    study.front(budgets=[0.5, 0.7, 1.0])
    result = study.compress(wb.Budget(macs=0.5))
    data = result.to_dict()
    assert [entry["budget"]["macs"] for entry in data["front"]] == [0.5, 0.7, 1.0]
    assert data["front"] == study.front(budgets=[0.5, 0.7, 1.0]).to_dict()  # its own plan is one of them
    from workbench.report.view import view

    shown = view(data)["front"]
    assert shown["chosen"] == 0
    assert len(shown["rows"]) == 3


def test_a_plan_that_is_none_of_them_is_shown_among_them(study: wb.Study) -> None:
    from workbench.report.view import view

    study.front(budgets=[0.5, 0.7, 1.0])
    result = study.compress(wb.Budget(macs=0.6))
    data = result.to_dict()
    shares = [entry["cost_ratio"] for entry in data["front"]]
    assert shares == sorted(shares)
    assert len(shares) == 4
    assert shares[1] == pytest.approx(result.ratio["macs"])
    assert data["front"][1]["predicted_degradation"] == result.plan.degradation
    assert view(data)["front"]["chosen"] == 1
    assert view(study.compress(wb.Budget(params=0.6)).to_dict())["front"]["chosen"] is None  # of another cost


def test_a_result_brings_a_front_of_its_own(study: wb.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the resource that its plan was for; not where there are several or no curves, or the solver takes too long."""
    again = wb.Study(study.model, study.example_inputs, calibration=study.calibration, refinement=None)
    by_hand = again.by_hand({"2": wb.Ratio(0.5)})
    assert again.compress(by_hand).front is None
    limits = wb.Limits(pinned={"0": 6})
    result = again.compress(wb.Budget(params=0.6, multiple=2), limits=limits)
    front = result.front
    assert front is not None
    assert (front.resource, front.multiple, len(front)) == ("params", 2, 20)
    assert {plan.options["0"] for plan in front} == {6}
    best = min((plan for plan in front if plan.costs["params"] >= result.cost.params), key=lambda p: p.costs["params"])
    assert best.degradation <= result.plan.degradation
    assert (beside := again.compress(by_hand).front) is not None  # now that there are curves
    assert beside.resource == "macs"
    assert again.compress(wb.Budget(params=0.9, macs=0.7)).front is None
    monkeypatch.setattr(Front, "of", late)
    assert again.compress(result.plan).front is None


def late(*_: Any) -> None:
    raise TimeoutError


def test_the_slider_solves_anew(study: wb.Study) -> None:
    pytest.importorskip("ipywidgets", reason="pip install 'workbench[notebook]'")
    explorer = study.explore(multiple=2)
    seen = set()
    for percent in (80.0, 50.0, 35.0):
        explorer.slider.value = percent
        plan = explorer.plan
        assert plan.budget == wb.Budget(macs=percent / 100, multiple=2)
        best = make_plan(study.graph, study.sensitivity(), plan.budget)
        assert plan.degradation == pytest.approx(best.degradation)
        assert plan.costs["macs"] <= percent / 100 * study.graph.cost().macs
        for name, units in plan.kept.items():
            assert f"<td>{name}<td>{len(units)} of {plan.units[name]}<td>" in explorer.widths.value
        assert f"{study.sensitivity().baseline - plan.degradation:.4f} predicted" in explorer.figures.value
        assert f"{plan.costs['macs'] / study.graph.cost().macs:.1%} of the original" in explorer.figures.value
        seen.add((explorer.figures.value, explorer.widths.value))
    assert len(seen) == 3
    explorer.slider.value = 0.0  # as far as it goes
    assert explorer.plan.costs["macs"] <= explorer.slider.value / 100 * study.graph.cost().macs
    assert study.compress(explorer.plan).target_met


def test_without_the_extra(study: wb.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "ipywidgets" else find(name))
    with pytest.raises(ModuleNotFoundError, match=r"explore\(\) needs ipywidgets; pip install 'workbench\[notebook\]'"):
        study.explore()
