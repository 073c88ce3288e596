"""A result tells the truth about the model that came out."""

from __future__ import annotations

import json

import pytest
import torch

import workbench as wb
from tests.models import BY_NAME, call
from workbench.cost.count import count
from workbench.result import Result


@pytest.fixture(scope="module", params=["residual", "multiplier", "grouped", "two-inputs"])
def result(request: pytest.FixtureRequest) -> Result:
    toy = BY_NAME[request.param]
    study = wb.Study(toy.model(), toy.example(), calibration=[toy.example(32)], name=toy.name)
    return study.compress(wb.Budget(macs=0.7))


def test_costs_are_counted_on_the_models(result: Result) -> None:
    toy = BY_NAME[result.source.name]
    counts = {name: len(units) for name, units in result.plan.kept.items()}
    assert result.cost == count(result.model, toy.example(2))
    assert (result.cost.macs, result.cost.params) == (toy.macs(counts), toy.params(counts))
    assert (result.dense_cost.macs, result.dense_cost.params) == (toy.macs(toy.whole), toy.params(toy.whole))
    assert result.ratio["macs"] == toy.macs(counts) / toy.macs(toy.whole)


def test_layers_add_up(result: Result) -> None:
    layers = result.layers()
    for when, cost in enumerate((result.dense_cost, result.cost)):
        assert sum(layer["macs"][when] for layer in layers) == cost.macs
    modules = (dict(result.graph.model.named_modules()), dict(result.model.named_modules()))
    for layer in layers:
        for when, model in enumerate(modules):
            module = model[layer["layer"]]
            wide = getattr(module, "out_channels", None) or module.out_features
            narrow = getattr(module, "in_channels", None) or module.in_features
            assert (layer["in"][when], layer["out"][when]) == (narrow, wide)
            assert layer["params"][when] == sum(p.numel() for p in module.parameters())


def test_layers_name_their_groups(result: Result) -> None:
    groups = BY_NAME[result.source.name].groups
    for layer in result.layers():
        readers = {name for name, group in groups.items() if layer["layer"] in group.readers}
        assert layer["group_in"] in (readers or {None}) or layer["kind"].startswith("conv")


def test_it_prints_itself(result: Result) -> None:
    assert repr(result).startswith(f"Result({result.source.name}: macs 0.")
    assert repr(result).endswith("verified)")
    assert len(result.to_frame()) == len(result.graph.layers)
    assert "<table" in result._repr_html_()


def test_json_holds_all_but_the_weights(result: Result) -> None:
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert data["target_met"] is True
    assert data["cost"]["after"]["macs"] == result.cost.macs
    assert {group["group"]: len(group["kept"]) for group in data["groups"]} == {
        k: len(v) for k, v in result.plan.kept.items()
    }
    assert data["verification"]["ok"] is True
    assert len(json.dumps(data)) < 100_000


def test_the_smaller_model_is_the_callers_class(result: Result) -> None:
    assert type(result.model) is type(result.graph.model)
    toy = BY_NAME[result.source.name]
    with torch.no_grad():
        assert torch.isfinite(call(result.model.eval(), toy.example(2))).all()
