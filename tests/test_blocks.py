"""Layers too wide for moments of all their columns: repaired channel by channel, exactly where that is possible."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from workbench import Budget, Plan, Study, blocks, trace
from workbench.apply import apply
from workbench.calibrate import calibrate
from workbench.graph.trace import ChannelGraph
from workbench.select import Elimination, GroupView, Lasso


class Conv(nn.Module):
    """Six channels of which two are combinations of others, read by a padded convolution."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.make, self.read = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 5, 3, bias=bias)
        with torch.no_grad():
            for parameter in self.make.parameters():
                parameter[4] = 0.5 * parameter[0] - parameter[1]
                parameter[5] = 2 * parameter[2]

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.make(x))


class Flat(Conv):
    """The same read by a linear layer that sees every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(6 * 36, 5)  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.make(x).flatten(1))


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "WIDEST", 20)


def plan_of(graph: ChannelGraph, kept: tuple[int, ...]) -> Plan:
    return Plan({"make": kept}, {"make": 6}, Budget(macs=0.5), 0.0, 0.0, graph.fingerprint)


@pytest.mark.parametrize("kind", [Conv, Flat])
def test_what_others_can_stand_for_is_repaired_exactly(kind: type[Conv]) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    data = torch.randn(64, 6, 6, 6)
    graph = trace(model, data[:2])
    statistics = calibrate(graph, [data])
    assert statistics.layers["read"].fit.xx.shape == (1, 7, 7)
    view = GroupView.of(graph, "make", statistics)
    path = Elimination()(view)
    assert path.errors[2] < 1e-3 < path.errors[3]
    assert sorted(Lasso()(view).order) == list(range(6))
    small = apply(graph, plan_of(graph, (0, 1, 2, 3)), [data]).model
    fresh = torch.randn(8, 6, 6, 6)
    torch.testing.assert_close(small(fresh), model(fresh), rtol=1e-3, atol=1e-3)


def test_a_dead_channel_does_no_harm() -> None:
    torch.manual_seed(0)
    model = Conv().eval()
    with torch.no_grad():
        model.read.weight[:, 3] = 0
        for parameter in model.make.parameters():
            parameter[1], parameter[4] = 0, 0.5 * parameter[0]
    data = torch.randn(32, 6, 6, 6)
    graph = trace(model, data[:2])
    small = apply(graph, plan_of(graph, (0, 1, 2)), [data]).model
    assert all(tensor.isfinite().all() for tensor in small.state_dict().values())
    torch.testing.assert_close(small(data), model(data), rtol=1e-3, atol=1e-3)


def test_a_layer_without_bias_gets_none() -> None:
    torch.manual_seed(0)
    model = Conv(bias=False).eval()
    data = torch.randn(32, 6, 6, 6)
    small = apply(graph := trace(model, data[:2]), plan_of(graph, (0, 1, 2, 3)), [data]).model
    assert small.read.bias is None
    torch.testing.assert_close(small(data), model(data), rtol=1e-2, atol=1e-2)


def test_a_study_runs_through() -> None:
    torch.manual_seed(0)
    model = Flat().eval()
    study = Study(model, torch.randn(1, 6, 6, 6), calibration=[torch.randn(64, 6, 6, 6)], refinement=None)
    assert study.compress(Budget(macs=0.7)).target_met
