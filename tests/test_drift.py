"""The layer before a residual sum is asked for what the shortcut lost, and for nothing elsewhere."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from workbench import Budget, Plan, trace
from workbench.apply import apply
from workbench.drift import Shortcut
from workbench.graph.trace import ChannelGraph


class Block(nn.Module):
    """A residual block with BN, dropout on its way into the sum, and a head; its shortcut comes from ``stem``."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.stem = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 6, 1)
        self.one, self.two = nn.Conv2d(6, 8, 3, padding=1), nn.Conv2d(8, 6, 3, padding=1)
        self.bn, self.drop, self.head = nn.BatchNorm2d(6), nn.Dropout(0.1), nn.Conv2d(6, 4, 1)
        with torch.no_grad():
            self.bn.weight.uniform_(0.5, 2)
            self.bn.running_var.uniform_(0.5, 2)  # type: ignore[union-attr,operator]

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(self.wide(x).relu())
        y = self.drop(self.bn(self.two(self.one(x).relu())))
        return self.head(y + x)


def traced() -> ChannelGraph:
    torch.manual_seed(0)
    return trace(Block().eval(), torch.randn(2, 3, 6, 6))


def shortcut_of(graph: ChannelGraph, name: str) -> Shortcut | None:
    layer = next(layer for layer in graph.layers if layer.name == name)
    return Shortcut.of(next(node for node in graph.program.nodes if node.name == layer.node), graph.program)


def test_only_the_layer_before_the_sum_has_a_shortcut() -> None:
    graph = traced()
    found = {layer.name: shortcut_of(graph, layer.name) for layer in graph.layers}
    stem = next(layer for layer in graph.layers if layer.name == "stem")
    assert {name for name, shortcut in found.items() if shortcut} == {"two"}
    assert found["two"] is not None
    assert found["two"].value == stem.node


def test_what_it_asks_for_makes_the_sum_right() -> None:
    graph = traced()
    shortcut = shortcut_of(graph, "two")
    assert shortcut is not None
    y, dense, small = torch.randn(3, 4, 6, 5, 5)
    norm = graph.model.bn
    drift = shortcut.drift({shortcut.value: dense}, {shortcut.value: small}, y)
    torch.testing.assert_close(norm(y + drift) + small, norm(y) + dense)
    assert shortcut.drift({shortcut.value: dense}, {}, y) is None


def test_a_channel_that_the_norm_cuts_off_asks_for_nothing() -> None:
    torch.manual_seed(0)
    model = Block().eval()
    with torch.no_grad():
        model.bn.weight[2] = 0
    shortcut = shortcut_of(trace(model, torch.randn(2, 3, 6, 6)), "two")
    assert shortcut is not None
    y, dense, small = torch.randn(3, 4, 6, 5, 5)
    drift = shortcut.drift({shortcut.value: dense}, {shortcut.value: small}, y)
    assert drift is not None
    assert not drift[:, 2].any()
    assert drift[:, 3].all()


def test_a_norm_whose_scale_is_computed_asks_for_nothing() -> None:
    torch.manual_seed(0)
    model = Block().eval()
    nn.utils.parametrize.register_parametrization(model.bn, "weight", nn.Softplus())
    graph = trace(model, torch.randn(2, 3, 6, 6))
    assert shortcut_of(graph, "two") is None
    units = {group.name: group.units for group in graph.groups}
    plan = Plan({name: tuple(range(count - 1)) for name, count in units.items()}, units, Budget(macs=0.9), 0.0, 0.0,
                graph.fingerprint)  # fmt: skip
    assert apply(graph, plan, [torch.randn(16, 3, 6, 6)]).repairs.keys() >= {"two"}


def test_the_output_is_nearer_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = []
    for without in (False, True):
        graph = traced()
        units = {group.name: group.units for group in graph.groups}
        kept = {name: tuple(range(6 if name == "wide" else count)) for name, count in units.items()}
        plan = Plan(kept, units, Budget(macs=0.5), 0.0, 0.0, graph.fingerprint)
        if without:
            monkeypatch.setattr(Shortcut, "of", lambda *_: None)
        torch.manual_seed(1)
        coarse = torch.randn(2, 256, 3, 2, 2)
        data, fresh = (nn.functional.interpolate(some, size=6, mode="bilinear") for some in coarse)
        small = apply(graph, plan, [data]).model
        with torch.no_grad():
            errors.append((small(fresh) - graph.model(fresh)).square().mean().item())
    assert errors[0] < 0.9 * errors[1]
