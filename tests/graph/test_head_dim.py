"""On request features of attention heads leave, not whole heads; the scale stays that of the original width."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import workbench as wb
from tests.deploy.test_export import Decoder
from workbench.graph.trace import ChannelGraph


class Attention(nn.Module):
    """Two heads of four features, written in several ways."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).view(x.shape[0], -1, 2, 4) for layer in (self.q, self.k, self.v))
        if self.kind == "einsum":
            weights = (torch.einsum("blhd,bmhd->bhlm", q, k) / 2).softmax(-1)
            return self.out(torch.einsum("bhlm,bmhe->blhe", weights, v).flatten(2))
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        if self.kind == "by hand":
            mixed = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(x.shape[0], -1, 8))


def half(graph: ChannelGraph) -> dict[str, list[int]]:
    draw = random.Random(0)
    return {group.name: sorted(draw.sample(range(group.units), group.units // 2)) for group in graph.groups}


@pytest.mark.parametrize("kind", ["einsum", "by hand", "sdpa"])
def test_features_of_all_heads_leave_together(kind: str) -> None:
    torch.manual_seed(0)
    model, x = Attention(kind).double().eval(), torch.randn(2, 5, 8).double()
    assert {group.name: group.units for group in wb.trace(model, x).groups} == {"q": 2}
    graph = wb.trace(model, x, head_dim=True)
    assert {group.name: group.units for group in graph.groups} == {"q": 4, "v": 4}
    members = {member.tensor: member.indices for member in graph["q"].members}
    assert members["q.weight"] == members["k.weight"] == ((0, 4), (1, 5), (2, 6), (3, 7))
    kept = half(graph)
    small = graph.winnow(kept)
    assert wb.verify(graph, small).ok
    with torch.no_grad():  # the scores of what stays, divided by the root of the original width
        rows = {name: [h * 4 + j for h in range(2) for j in kept[name]] for name in ("q", "v")}
        parts = {"q": "q", "k": "q", "v": "v"}
        q, k, v = (
            F.linear(x, getattr(model, name).weight[rows[by]], getattr(model, name).bias[rows[by]]).view(2, 5, 2, -1)
            for name, by in parts.items()
        )
        weights = (torch.einsum("blhd,bmhd->bhlm", q, k) / 2).softmax(-1)
        mixed = torch.einsum("bhlm,bmhe->blhe", weights, v).flatten(2)
        assert torch.allclose(small(x), F.linear(mixed, model.out.weight[:, rows["v"]], model.out.bias), atol=1e-12)


def module() -> tuple[nn.Module, Tensor | dict[str, Tensor], dict[str, int]]:
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return model, torch.randn(2, 5, 8), {"self_attn": 4, "linear1": 16}  # one weight makes q, k and v in one piece


def decoder() -> tuple[nn.Module, Tensor | dict[str, Tensor], dict[str, int]]:
    """Grouped queries; rotated features are pairs, with the angles that turn them."""
    units = {f"blocks.{block}.{name}": size for block in range(2) for name, size in (("q", 3), ("v", 6), ("gate", 40))}
    return Decoder(), {"words": torch.randint(31, (2, 7))}, units


@pytest.mark.parametrize("build", [module, decoder])
def test_models(build: Callable[[], tuple[nn.Module, Tensor, dict[str, int]]]) -> None:
    torch.manual_seed(0)
    model, inputs, units = build()
    graph = wb.trace(model.eval(), inputs, head_dim=True)
    assert {group.name: group.units for group in graph.groups if not group.approximate} == units
    small = graph.winnow({name: stay for name, stay in half(graph).items() if name in units})
    assert wb.verify(graph, small).ok
    small.train()
    loss = sum(leaf.sum() for leaf in (small(**inputs) if isinstance(inputs, dict) else {"": small(inputs)}).values())
    loss.backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


def test_compress_takes_it() -> None:
    torch.manual_seed(0)
    data = list(torch.randn(64, 5, 8).split(16))
    study = wb.Study(Attention("sdpa").eval(), data[0], calibration=data, head_dim=True)
    result = study.compress(wb.Budget(macs=0.8))
    assert result.target_met
    assert result.verification.ok
