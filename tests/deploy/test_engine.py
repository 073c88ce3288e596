"""onnxruntime as an engine of latency tables: what it times is the exported file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import workbench as wb
from tests.test_plan import curves_of
from tests.test_ranks import Net
from workbench.cost.bench import Bench
from workbench.cost.engine import Call, engine_of
from workbench.cost.measure import compare_latency
from workbench.cost.split import splits_of
from workbench.deploy import OnnxRuntime, engine
from workbench.deploy.session import Session
from workbench.factorize import sites_of
from workbench.graph.call import op_name
from workbench.planning import plan_in_time

X = torch.rand(2, 4, 9, 9, generator=torch.Generator().manual_seed(0))


def operation(name: str) -> Any:
    return getattr(torch.ops.aten, name).default


@pytest.mark.parametrize(
    "options",
    [{}, {"stride": [2, 1], "padding": [1, 0]}, {"dilation": [2], "padding": [2]}, {"groups": 2}, {"bias": None}],
)
def test_a_convolution_as_a_file_of_its_own_computes_the_same(options: dict[str, Any]) -> None:
    weight, bias = torch.rand(6, 4 // options.get("groups", 1), 3, 3), torch.rand(6)
    given = {"input": X, "weight": weight, "bias": bias, **options}
    model = engine._single("conv2d", given)
    assert model is not None
    (found,) = Session(model).session.run(None, {"x": X.numpy()})
    assert torch.allclose(torch.tensor(found), F.conv2d(**given), atol=1e-5)


@pytest.mark.parametrize("bias", [None, torch.rand(3)])
def test_a_linear_layer_as_a_file_of_its_own_computes_the_same(bias: Tensor | None) -> None:
    given = {"input": X, "weight": torch.rand(3, 9), "bias": bias}
    model = engine._single("linear", given)
    assert model is not None
    (found,) = Session(model).session.run(None, {"x": X.numpy()})
    assert torch.allclose(torch.tensor(found), F.linear(X, given["weight"], bias), atol=1e-5)


def test_what_is_fused_takes_no_time() -> None:
    runtime = OnnxRuntime()
    weight = torch.rand(6, 4, 3, 3)
    calls = [
        Call(operation("conv2d"), (), {"input": X, "weight": weight}),
        Call(operation("relu"), (), {"self": X}),
        Call(operation("sigmoid"), (), {"self": X}),
    ]
    conv, relu, sigmoid = runtime.times(calls, 3)
    assert min(conv) > 0
    assert relu == [0.0] * 3
    assert min(sigmoid) > 0


def test_stages_of_lower_rank_as_files_of_their_own_compute_the_same() -> None:
    """All but the padding that is no zeros, which PyTorch does."""
    graph = wb.trace(Net().eval(), torch.rand(1, 2, 10, 10))
    bench = Bench.of(graph, graph.inputs, torch.device("cpu"))
    splits, _ = splits_of(bench, bench.operations()[0], sites_of(graph, wb.Methods().ranks)[0])
    half = {group.name: group.units // 2 for group in graph.exact}
    seen = []
    for call in (call for split in splits for call in split.calls({**half, split.axis: 2})):
        seen.append(op_name(call.function))
        model = engine._single(seen[-1], call.kwargs)
        assert (model is None) == (seen[-1] == "pad")
        if model is not None:
            (found,) = Session(model).session.run(None, {"x": call.kwargs["input"].numpy()})
            assert torch.allclose(torch.tensor(found), call(), atol=1e-5)
    assert set(seen) == {"conv2d", "linear", "pad"}


def test_a_model_is_exported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[nn.Module] = []

    def export(model: nn.Module, *rest: Any) -> wb.Exported:
        asked.append(model)
        return wb.export_onnx(model, *rest)

    monkeypatch.setattr(engine, "export_onnx", export)
    runtime, model = OnnxRuntime(), nn.Linear(9, 3)
    for _ in range(2):
        (times,) = runtime.times([Call(model, (torch.rand(2, 9),))], 3)
        assert len(times) == 3
        assert min(times) > 0
    assert asked == [model]
    assert engine_of("onnxruntime") == runtime


@pytest.mark.slow
def test_a_budget_in_milliseconds_of_onnxruntime(tmp_path: Path) -> None:
    """The finished file holds it within 15 %, timed in turn with the original's."""
    graph = wb.trace(wb.zoo.load("vgg"), torch.rand(1, 1, 28, 28))
    table = wb.measure_latency(graph, threads=1, engine=OnnxRuntime(), store=tmp_path)
    assert table.place["engine"] == "onnxruntime"
    budget = wb.Budget(latency_ms=0.5, multiple=8)
    plan = plan_in_time(graph, curves_of(graph), budget, None, wb.Limits(), table)
    small = graph.winnow(plan.kept)
    latency = compare_latency(table, graph, small, plan.widths)
    assert latency.after.median < 1.15 * 0.5 * latency.before.median


def test_other_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="onnxruntime is timed on the processor, not on meta; give device='cpu'"):
        OnnxRuntime().times([Call(nn.Linear(2, 2, device="meta"), (torch.zeros(1, 2, device="meta"),))], 1)


def test_a_file_that_is_kept_tells_inputs_apart_by_name() -> None:
    class Minus(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a - b

    runtime, model, inputs = OnnxRuntime(), Minus(), {"a": X, "b": X.square()}
    for given in (inputs, dict(reversed(inputs.items()))):
        (found,) = runtime._run_of(Call(model, (), given))()
        assert torch.allclose(torch.tensor(found), model(**inputs))
