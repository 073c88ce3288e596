"""The whole road on small models: the budget is met, equal runs are byte-equal, bad input is one sentence."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import workbench as wb
from tests.models import TOYS, Toy, call
from workbench.result import Score
from workbench.sensitivity import Search


def road(seed: int = 0, **options: Any) -> tuple[wb.Study, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)
    )
    x = torch.randn(48, 1, 8, 8)
    options = {"calibration": list(x.split(16)), "seed": seed, "name": "toy", **options}
    return wb.Study(model, x[:1], **options), x


@pytest.mark.parametrize("toy", TOYS, ids=lambda toy: toy.name)
def test_every_toy_goes_all_the_way(toy: Toy) -> None:
    smallest = {name: max(1, round(0.1 * group.units)) for name, group in toy.groups.items()}
    reachable = toy.macs(smallest) / toy.macs(toy.whole)
    budget = wb.Budget(macs=(1 + reachable) / 2)
    study = wb.Study(toy.graph.model, toy.example(), calibration=[toy.example(32)])
    study.graph = toy.graph  # spares an export
    result = study.compress(budget)
    assert result.target_met
    assert result.cost.macs <= budget.macs * toy.macs(toy.whole)
    assert result.verification.ok
    assert math.isfinite(result.score.after)
    assert result.score.before == 0  # the original differs by nothing from itself
    call(result.model, toy.example(3))
    json.dumps(result.to_dict(), allow_nan=False)


def test_equal_runs_are_byte_equal() -> None:
    results = [road(seed)[0].compress(wb.Budget(macs=0.5)) for seed in (3, 3)]
    texts = [json.dumps({k: v for k, v in result.to_dict().items() if k != "run"}) for result in results]
    assert texts[0] == texts[1]
    states = [result.model.state_dict() for result in results]
    assert all(map(torch.equal, states[0].values(), states[1].values()))


def test_the_seed_draws_the_rows() -> None:
    study, _ = road()
    other = road(1)[0]
    draws = [
        wb.calibrate.calibrate(s.graph, s.calibration, rows=48, seed=s.seed).layers["3"].all.xx for s in (study, other)
    ]
    assert not torch.equal(*draws)


def test_the_verbs_are_called_once() -> None:
    scored: list[nn.Module] = []

    def evaluate(model: nn.Module) -> float:
        scored.append(model)
        return 1.0 - 0.01 * len(scored)

    study, _ = road(evaluate=evaluate)
    curves = study.sensitivity()
    candidates = len(scored)
    assert study.sensitivity() is curves
    assert study.graph is study.graph
    plan = study.allocate(wb.Budget(macs=0.6))
    assert len(scored) == candidates
    study.compress(plan)
    assert len(scored) == candidates + 2  # before and after
    assert study.seconds.keys() == {"trace", "calibrate", "sensitivity", "allocate", "apply", "verify"}
    assert repr(study) == "Study(toy, 48 calibration samples)"


def test_another_score_reports() -> None:
    study, x = road(test=lambda model: model(x).std())
    result = study.compress(wb.Budget(macs=0.7))
    assert result.score.before == pytest.approx(study.model.eval()(x).std().item())


def test_the_original_is_scored_once_for_all_plans() -> None:
    scored: list[int] = []

    def score(model: nn.Module) -> float:
        scored.append(sum(p.numel() for p in model.parameters()))
        return 0.0

    study, _ = road(refinement=None, test=score)
    results = [study.compress(wb.Budget(macs=share)) for share in (0.7, 0.5)]
    whole = sum(p.numel() for p in study.model.parameters())
    assert scored == [whole, results[0].cost.params, results[1].cost.params]


def test_the_callers_model_is_untouched() -> None:
    study, _ = road()
    model = study.model.train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    study.compress(wb.Budget(macs=0.5))
    assert model.training
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("training", [False, True])
def test_what_comes_out_is_in_the_mode_of_the_model(training: bool) -> None:
    study = road(refinement=None)[0]
    study.model.train(training)
    result = study.compress(wb.Budget(macs=0.5))
    assert {module.training for module in (*result.model.modules(), *study.model.modules())} == {training}


def test_a_plan_kept_from_before() -> None:
    study, _ = road()
    plan = study.allocate(wb.Budget(macs=0.5))
    fresh, _ = road()
    result = fresh.compress(wb.Plan.from_dict(json.loads(json.dumps(plan.to_dict()))))
    assert all(map(torch.equal, result.model.state_dict().values(), study.compress(plan).model.state_dict().values()))
    assert result.curves is None
    json.dumps(result.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"calibration": []}, ValueError, "the calibration data is empty"),
        ({"calibration": iter([torch.zeros(8, 1, 8, 8)])}, ValueError, "can be read only once"),
        ({"evaluate": lambda model: math.nan}, ValueError, "returned nan for the original model"),
        ({"evaluate": lambda model: (0.9, 48)}, ValueError, "returned a tuple; return one number, or one a sample"),
        ({"evaluate": 0.9}, TypeError, "evaluate=0.9 cannot be called; give a function of the model"),
        ({"test": lambda model, loader: 0.9}, TypeError, r"cannot be called with the model alone \(missing .*'loader'"),
        ({"evaluate": wb.Evaluation([], lambda output: output)}, TypeError, "'score' cannot be called with the output"),
        ({"criterion": "l1"}, TypeError, "criterion='l1' is no criterion; give one of workbench.select"),
        ({"methods": "channels"}, TypeError, "methods='channels' are no methods; give Methods"),
        ({"budget": 0.5}, TypeError, "a Plan or a Budget, not float; try Budget"),
    ],
)
def test_bad_input_is_one_sentence(options: dict[str, Any], error: type[Exception], words: str) -> None:
    budget = options.get("budget", wb.Budget(macs=0.5))
    options = {name: value for name, value in options.items() if name != "budget"}
    with pytest.raises(error, match=words) as caught:
        road(**options)[0].compress(budget)
    assert "\n" not in str(caught.value)


def test_a_fidelity_takes_all_inputs_of_the_model() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.out = nn.Linear(6, 24), nn.Linear(4, 24), nn.Linear(24, 4)

        def forward(self, x: torch.Tensor, side: torch.Tensor | None = None) -> torch.Tensor:
            hidden = self.a(x).relu()
            out: torch.Tensor = self.out(hidden if side is None else hidden * self.b(side).sigmoid())
            return out

    x, side, labels = torch.randn(64, 6), torch.randn(64, 4), torch.zeros(64)
    labelled = wb.Fidelity([(x, side, labels)])
    default, told = (
        wb.Study(Two(), (x[:2], side[:2]), calibration=[(x, side)], refinement=None, **scores)
        for scores in ({}, {"evaluate": labelled, "test": labelled})
    )
    scores = [study.compress(wb.Budget(macs=0.5)).score.after for study in (default, told)]
    assert scores[0] == pytest.approx(scores[1])
    assert told.test is told.evaluate


def test_a_layer_that_reads_nothing_but_zeros() -> None:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 12, 3), nn.ReLU(), nn.Conv2d(12, 4, 1)
    model, x = nn.Sequential(*layers), torch.randn(32, 3, 8, 8)
    nn.init.constant_(model[0].bias, -100.0)  # type: ignore[arg-type]
    result = wb.Study(model, x[:2], calibration=x, refinement=None).compress(wb.Budget(macs=0.3))
    assert result.target_met
    torch.testing.assert_close(result.model(x), model(x))


def test_a_model_that_cannot_be_copied() -> None:
    with pytest.warns(FutureWarning):
        layer = nn.utils.weight_norm(nn.Conv1d(4, 8, 3))
    with pytest.raises(ValueError, match=r"^0 has torch.nn.utils.weight_norm, .*; use torch.nn.utils.parametrizations"):
        wb.Study(nn.Sequential(layer), torch.zeros(1, 4, 9), calibration=torch.zeros(8, 4, 9))


@pytest.mark.parametrize("model", [nn.Linear, {}, abs], ids=["class", "weights", "function"])
def test_a_model_is_a_module(model: Any) -> None:
    with pytest.raises(TypeError, match=r"the model is .*; give an nn.Module, with its trained weights loaded"):
        wb.Study(model, torch.zeros(1, 3), calibration=[torch.zeros(8, 3)])
    with pytest.raises(TypeError, match="the model is"):
        wb.trace(model, torch.zeros(1, 3))


def test_an_example_is_no_shape() -> None:
    with pytest.raises(ValueError, match=r"the example inputs \(1, 3\) hold no tensor; give a batch"):
        wb.trace(nn.Linear(3, 2), (1, 3))


def test_a_score_that_cannot_be_used_costs_no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Search, "_path", lambda *_: pytest.fail("channels were selected first"))
    with pytest.raises(ZeroDivisionError):
        road(evaluate=lambda model: 1 / 0)[0].compress(wb.Budget(macs=0.5))


def test_scores_of_data_in_another_order_each_time() -> None:
    images = torch.randn(64, 3)
    loader = DataLoader(TensorDataset(images, images.argmax(1)), 16, shuffle=True)
    evaluate = wb.Evaluation(loader, lambda output, batch: output.argmax(1).eq(batch[1]), name="right")
    for option in ("evaluate", "test"):
        with pytest.raises(ValueError, match=f"^{option}: the data of 'right' yields other batches each time"):
            wb.Study(nn.Linear(3, 3), images[:1], calibration=images, **{option: evaluate})


def test_a_plan_out_of_reach() -> None:
    with pytest.raises(wb.Unreachable, match=r"\d"):
        road()[0].compress(wb.Budget(macs=0.001))


def test_nothing_to_compress() -> None:
    with pytest.raises(ValueError, match="no channel group"):
        wb.compress(nn.Linear(4, 2), torch.zeros(1, 4), budget=wb.Budget(macs=0.5), calibration=[torch.randn(8, 4)])


def test_scores_are_paired() -> None:
    import numpy as np

    score = Score.of("accuracy", np.array([1.0, 1, 0, 1]), np.array([1.0, 0, 0, 1]))
    assert (score.before, score.after, score.samples) == (0.75, 0.5, 4)
    assert score.interval == pytest.approx((-0.25 - 1.959964 * 0.25, -0.25 + 1.959964 * 0.25))
    assert repr(score) == "Score(accuracy: 0.75 -> 0.5 on 4 samples)"
    assert score.to_dict()["difference"] == -0.25
    assert Score.of("f", np.array([1.0]), np.array([0.5])).to_dict()["interval"] is None
