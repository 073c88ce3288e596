"""Groups that stand in for each other: what each can lose alone says nothing of what both can."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from workbench import Budget, Evaluation, Methods, Plan, Rank, Study
from workbench.interaction import SAMPLES

UNITS = 12


class Twins(nn.Module):
    """The branches a and b make the same features; c makes others, which matter a little less."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(8, UNITS) for _ in range(3))
        self.head_a, self.head_b, self.head_c = (nn.Linear(UNITS, 5) for _ in range(3))
        self.b.load_state_dict(self.a.state_dict())
        self.mix = nn.Linear(3 * UNITS, 5)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = (layer(x).relu() for layer in (self.a, self.b, self.c))
        return self.mix(torch.cat([a, b, 0.5 * c], 1))


def fall(output: Tensor, batch: Any) -> Tensor:
    return -(output - batch[1]).square().sum(1)


def study(**options: Any) -> Study:
    torch.manual_seed(0)
    model, x = Twins(), torch.randn(1024, 8)
    with torch.no_grad():
        evaluate = Evaluation(list(zip(x.split(256), model(x).split(256), strict=True)), fall)
    return Study(model, x[:1], calibration=list(x.split(256)), evaluate=evaluate, refinement=None, **options)


@pytest.fixture(scope="module")
def known() -> tuple[Study, Plan, Plan]:
    some = study()
    plan = some.allocate(Budget(macs=0.5), mode="measured")
    return some, plan, some.refine(plan)


def test_the_curves_alone_take_both_twins(known: tuple[Study, Plan, Plan]) -> None:
    some, plan, _ = known
    assert len(plan.kept["a"]) + len(plan.kept["b"]) < UNITS
    assert some.refine(plan, evaluations=1).lost > 5 * plan.degradation  # type: ignore[operator]  # it was looked at


def test_refined_it_loses_less_under_the_same_budget(known: tuple[Study, Plan, Plan]) -> None:
    some, plan, refined = known
    before = some.refine(plan, evaluations=1)
    assert before.kept == plan.kept
    assert refined.lost < 0.7 * before.lost  # type: ignore[operator]
    result = some.compress(refined)
    assert result.target_met
    assert result.searched is not None
    assert result.searched.before - result.searched.after == pytest.approx(refined.lost, rel=1e-4)
    assert "real loss" in repr(refined)


def test_it_stays_within_the_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    for allowed in (1, 3, 5, 9, 40):
        some = study()
        plan = some.allocate(Budget(macs=0.5))
        real: list[Plan] = []
        measured = some.search.measured
        moves: set[Any] = set()
        lost, add = some._lost, measured.add
        monkeypatch.setattr(some, "_lost", lambda plan, real=real, lost=lost: real.append(plan) or lost(plan))

        def counted(several: Any, retries: Any = None, moves: Any = moves, add: Any = add) -> None:
            moves.update(several)
            add(several, retries)

        monkeypatch.setattr(measured, "add", counted)
        some.refine(plan, allowed)
        assert 1 <= len(real) + len(moves) <= allowed
        if moves:
            assert {measured.seen(widths) for widths in moves} == {3}
            assert len(measured.dense_of(next(iter(moves)))) == SAMPLES


def test_what_it_measured_is_in_the_store(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = study(store=tmp_path)
    plan = first.refine(Budget(macs=0.5))
    first.search.measured.ledger.close()  # type: ignore[attr-defined]  # a store
    again = study(store=tmp_path)
    monkeypatch.setattr(again.search.measured.scorer, "scored", lambda chunks, block: pytest.fail("scored again"))
    assert again.refine(Budget(macs=0.5)) == plan
    again.search.measured.ledger.close()  # type: ignore[attr-defined]


def test_a_plan_that_cannot_be_scored_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    some = study()
    plan = some.allocate(Budget(macs=0.5))
    lost, calls = some._lost, []

    def failing(tried: Plan) -> float:
        calls.append(tried)
        if len(calls) > 1:
            raise RuntimeError("no more")
        return lost(tried)

    monkeypatch.setattr(some, "_lost", failing)
    assert some.refine(plan).kept == plan.kept
    assert len(calls) > 1


def test_moves_that_fail_are_not_tried_again() -> None:
    calls, refining = [], []

    def score(model: nn.Module) -> float:
        calls.append(1)
        if len(refining) and len(calls) > refining[0] + 1:  # one is the plan's own
            raise RuntimeError("no more")
        with torch.no_grad():
            return -model(torch.ones(4, 8)).square().mean().item()

    torch.manual_seed(0)
    x = torch.randn(256, 8)
    some = Study(Twins(), x[:1], calibration=[x], evaluate=score, refinement=None, retries=5)
    plan = some.allocate(Budget(macs=0.5))
    refining.append(len(calls))
    assert some.refine(plan, evaluations=9).kept == plan.kept
    assert 2 < len(calls) - refining[0] <= 9


def test_a_plan_of_some_groups_leaves_the_others_whole(known: tuple[Study, Plan, Plan]) -> None:
    some, plan, _ = known
    part = replace(plan, kept={"a": plan.kept["a"]}, units={"a": UNITS}, budget=Budget(macs=0.9))
    assert some.refine(part, evaluations=1).kept["b"] == tuple(range(UNITS))


def test_scores_of_plans_by_hand_are_their_own() -> None:
    """Two ranks may have the same place on a layer's ladder; what one loses is not what the other does."""
    some = study(methods=Methods(channels=False))
    plans = [some.by_hand({"mix": Rank("weight_svd", rank)}) for rank in (5, 4)]
    assert len({plan.places for plan in plans}) < len(plans)
    seen = [some.refine(plan, evaluations=1).lost for plan in plans]
    alone = [study().compress(plan).score for plan in plans]
    assert seen == pytest.approx([score.before - score.after for score in alone], rel=1e-4, abs=1e-9)


def test_a_plan_that_changes_what_the_search_may_not() -> None:
    some = study(ignore=["mix"])
    with pytest.raises(ValueError, match="the plan changes mix/rank, of which this search knows nothing; leave it out"):
        some.refine(some.by_hand({"mix": Rank("weight_svd", 3)}))


def test_what_cannot_be_refined(known: tuple[Study, Plan, Plan]) -> None:
    some, plan, _ = known
    for evaluations in (0, 1.5, None):
        with pytest.raises(ValueError, match=r"evaluations=\S+ must be a whole number, 1 or more"):
            some.refine(plan, evaluations)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="give a Plan or a Budget, not float"):
        some.refine(0.5)  # type: ignore[arg-type]
