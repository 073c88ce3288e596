"""A layer picks its inputs; who makes them keeps all."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import workbench as wb
from workbench.cost.count import count
from workbench.cost.work import work_products
from workbench.graph.gather import GatheredConv2d, GatheredLinear
from workbench.graph.trace import ChannelGraph


class Stream(nn.Module):
    """A residual stream behind LayerNorms; attention's heads are written in the forward, so that it is rewritten."""

    def __init__(self, hard: bool = False):
        super().__init__()
        self.hard = hard
        self.embed, self.norm, self.head = nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 3)
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))
        self.out, self.up, self.down = nn.Linear(8, 8), nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.norm(x)
        if self.hard:
            q, k, v = (layer(y).view(len(x), -1, 4, 2).transpose(1, 2) for layer in (self.q, self.k, self.v))
            x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(len(x), -1, 8))
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        return self.head(self.norm(x).mean(1))


class Residual(nn.Module):
    """Convolutions that read a stream which is returned, too."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3), nn.Conv2d(8, 4, 1)
        self.grouped = nn.Conv2d(6, 6, 1, groups=2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.stem(x).relu()
        return x, self.two(self.one(x).relu()), self.grouped(x)


def halves(graph: ChannelGraph, seed: int = 0) -> dict[str, list[int]]:
    draw = random.Random(seed)
    return {g.name: sorted(draw.sample(range(g.units), max(1, g.units // 2))) for g in graph.exact}


@pytest.mark.parametrize("hard", [False, True])
def test_layers_behind_norms_gather(hard: bool) -> None:
    model, x = Stream(hard).double().eval(), torch.randn(2, 4, 5).double()
    graph = wb.trace(model, x, gather=True)
    inputs = {group.name: group.units for group in graph.groups if group.name.endswith(".inputs")}
    assert inputs == dict.fromkeys(("q.inputs", "k.inputs", "v.inputs") * hard + ("up.inputs", "head.inputs"), 8)
    assert not any(group.approximate for group in graph.groups)
    kept = halves(graph)
    small = graph.winnow(kept)
    assert (type(small) is Stream) == (not hard)
    assert hard or type(small.up) is GatheredLinear
    assert small.norm.weight.shape == (8,)
    assert wb.verify(graph, small, torch.randn(3, 4, 5).double()).ok
    state = dict(model.state_dict())
    for name in [name for name in kept if name.endswith(".inputs")]:
        weight = state[f"{name.removesuffix('.inputs')}.weight"] = state[
            f"{name.removesuffix('.inputs')}.weight"
        ].clone()
        weight[:, [place for place in range(8) if place not in kept[name]]] = 0
    heads = [2 * unit + place for unit in kept.get("q", range(4)) for place in range(2)]
    state["out.weight"] = state["out.weight"] * torch.isin(torch.arange(8), torch.tensor(heads))
    state["down.weight"] = state["down.weight"] * torch.isin(torch.arange(12), torch.tensor(kept["up"]))
    with torch.no_grad():
        assert torch.allclose(torch.func.functional_call(model, state, (x,)), small(x), atol=1e-12)
    counts = {name: len(units) for name, units in kept.items()}
    assert sum(p.at(counts) for _, parts in work_products(graph, {}) for p in parts) == count(small, x).macs


def test_a_named_layer_keeps_the_group_it_reads_whole() -> None:
    layers = (nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
    model, x = nn.Sequential(*layers).eval(), torch.randn(2, 3, 9, 9)
    assert wb.trace(model, x, gather=True).groups == wb.trace(model, x).groups  # all can shrink
    graph = wb.trace(model, x, gather=["2"])
    assert {group.name: group.units for group in graph.groups} == {"2": 8, "2.inputs": 6}
    assert "gather in 2: it picks its inputs, and they stay" in {frozen.text for frozen in graph.frozen}
    small = graph.winnow({"2.inputs": [5, 0], "2": [1, 2, 3]})
    assert type(small[2]) is GatheredConv2d
    assert small[2].places.tolist() == [0, 5]
    assert (small[0].out_channels, small[2].in_channels, small[2].out_channels) == (6, 2, 3)
    assert wb.verify(model, small, x).ok


def test_what_the_model_returns_is_gathered() -> None:
    model, x = Residual().double().eval(), torch.randn(2, 3, 7, 7).double()
    graph = wb.trace(model, x, gather=True)
    assert {group.name: group.units for group in graph.groups} == {"one": 8, "one.inputs": 6}
    once = graph.winnow(halves(graph))
    assert wb.verify(graph, once).ok
    again = wb.trace(once, x, gather=True)
    twice = again.winnow({"one.inputs": [1]})
    assert wb.verify(again, twice).ok
    assert twice(x)[0].shape == model(x)[0].shape


@pytest.mark.parametrize("hard", [False, True])
def test_compress_and_restore(hard: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    data: list[Any] = list(torch.randn(64, 4, 5).split(16))
    study = wb.Study(Stream(hard).eval(), torch.randn(1, 4, 5), calibration=data, gather=True)
    result = study.compress(wb.Budget(macs=0.6))
    assert result.target_met
    assert result.verification.ok
    assert result.repairs
    result.save(tmp_path)
    restored = wb.restore(Stream(hard), tmp_path)
    with torch.no_grad():
        assert torch.equal(restored(data[0]), result.model.eval()(data[0]))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("three", "there is no layer 'three' to gather; the layers are stem, one, two, grouped"),
        ("grouped", "grouped cannot gather its inputs: it has groups; leave it out of gather="),
    ],
)
def test_bad_layers_are_refused(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        wb.trace(Residual().eval(), torch.randn(2, 3, 7, 7), gather=[name])


def test_shared_weights_cannot_gather() -> None:
    model = Residual().eval()
    model.one = model.two = nn.Conv2d(6, 6, 1)
    with pytest.raises(ValueError, match="two cannot gather its inputs: its weight is used elsewhere, too"):
        wb.trace(model, torch.randn(2, 3, 7, 7), gather=["two"])
