"""Constructs that are hard: each is exact or refused with op, layer and remedy. Never a third outcome."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.models import Lambda
from workbench import Refused, trace
from workbench.graph.masked import masked, run_masked, survivors
from workbench.graph.trace import ChannelGraph
from workbench.graph.winnow import record_of


def flat(expression: Callable[[Any, Tensor], Any], wide: int = 8, out: int = 8) -> Callable[[], nn.Module]:
    """A model of one hidden layer with an expression of it in front of the head."""
    return lambda: Lambda(
        lambda m, x: m.head(expression(m, m.hidden(x))), hidden=nn.Linear(5, wide), head=nn.Linear(out, 3)
    )


def image(
    expression: Callable[[Any, Tensor], Any], wide: int = 8, out: int = 8, **layers: nn.Module
) -> Callable[[], nn.Module]:
    """The same with 1x1 convolutions; the table passes factories, so that each test has fresh weights."""
    return lambda: Lambda(
        lambda m, x: m.head(expression(m, m.hidden(x))),
        hidden=nn.Conv2d(3, wide, 1),
        head=nn.Conv2d(out, 3, 1),
        **layers,
    )


VECTOR, IMAGE = (5,), (3, 4, 4)
# name, builder, shape of a sample, the units that must be found (None: any)
CONSTRUCTS: list[tuple[str, Callable[[], nn.Module], tuple[int, ...], dict[str, int] | None]] = [
    ("flip", image(lambda m, x: x.flip(1)), IMAGE, {"hidden": 8}),
    ("roll", image(lambda m, x: torch.roll(x, 3, 1)), IMAGE, None),
    ("roll over space", image(lambda m, x: torch.roll(x, 1, 2)), IMAGE, {"hidden": 8}),
    ("slice of channels", image(lambda m, x: x[:, 2:6], out=4), IMAGE, None),
    ("slice of space", image(lambda m, x: x[:, :, 1:]), IMAGE, {"hidden": 8}),
    ("halves apart", image(lambda m, x: m.other(x.chunk(2, 1)[1]), other=nn.Conv2d(4, 8, 1)), IMAGE, None),
    ("gated halves", flat(lambda m, x: x.chunk(2, -1)[0] * torch.sigmoid(x.chunk(2, -1)[1]), out=4),
        VECTOR, {"hidden": 4}),
    ("glu", flat(lambda m, x: F.glu(x), out=4), VECTOR, None),
    ("channel shuffle", image(lambda m, x: F.channel_shuffle(x, 2)), IMAGE, None),
    ("shuffle by view", image(lambda m, x: x.view(-1, 2, 4, 4, 4).transpose(1, 2).flatten(1, 2)), IMAGE, None),
    ("pixel shuffle", image(lambda m, x: F.pixel_shuffle(x, 2), out=2), IMAGE, None),
    ("pixel unshuffle", image(lambda m, x: F.pixel_unshuffle(x, 2), out=32), IMAGE, {"hidden": 8}),
    ("padded channels", flat(lambda m, x: F.pad(x, (0, 2)), out=10), VECTOR, None),
    ("padded space", image(lambda m, x: F.pad(x, (1, 1, 1, 1), value=2.0)), IMAGE, {"hidden": 8}),
    ("reflected space", image(lambda m, x: F.pad(x, (1, 1, 1, 1), mode="reflect")), IMAGE, {"hidden": 8}),
    ("hard-coded view", image(lambda m, x: x.view(-1, 8, 16).unflatten(2, (4, 4))), IMAGE, None),
    ("view by size", image(lambda m, x: x.view(x.size(0), -1, 4, 4)), IMAGE, None),
    ("layer norm", lambda: nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 3)), VECTOR, {"0": 8}),
    ("group norm", lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8), nn.Conv2d(8, 3, 1)), IMAGE, {"0": 2}),
    ("instance norm", lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.InstanceNorm2d(8), nn.Conv2d(8, 3, 1)), IMAGE, None),
    ("batch norm by batch", lambda: nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, track_running_stats=False), nn.Conv2d(8, 3, 1)), IMAGE, None),
    ("softmax over channels", flat(lambda m, x: x.softmax(-1)), VECTOR, {"hidden": 8}),
    ("normalised", flat(lambda m, x: F.normalize(x, dim=-1)), VECTOR, {"hidden": 8}),
    ("mean over channels", flat(lambda m, x: x.mean(-1, keepdim=True), out=1), VECTOR, {"hidden": 8}),
    ("cumulated", flat(lambda m, x: x.cumsum(-1)), VECTOR, {"hidden": 8}),
    ("sorted", flat(lambda m, x: x.sort(-1)[0]), VECTOR, {}),
    ("best of", flat(lambda m, x: x.topk(4, -1)[0], out=4), VECTOR, {}),
    ("indexed", flat(lambda m, x: x[:, torch.tensor([3, 1, 2])], out=3), VECTOR, None),
    ("repeated", flat(lambda m, x: x.repeat(1, 2), out=16), VECTOR, None),
    ("with itself", flat(lambda m, x: torch.cat([x, x], 1), out=16), VECTOR, {"hidden": 8}),
    ("outer product", flat(lambda m, x: (x[:, :, None] * x[:, None, :2]).flatten(1), out=16), VECTOR, None),
    ("added constants", flat(lambda m, x: x + torch.arange(8.0)), VECTOR, {"hidden": 8}),
    ("written in place", flat(lambda m, x: x.clone().index_fill_(1, torch.tensor([1]), 0.0)), VECTOR, {}),
    ("where", flat(lambda m, x: torch.where(x > 0, x, 0.1 * x)), VECTOR, {"hidden": 8}),
    ("converted", flat(lambda m, x: x.to(torch.float32)), VECTOR, {"hidden": 8}),
    ("expanded", flat(lambda m, x: x[:, None].expand(-1, 3, -1)), VECTOR, {"hidden": 8}),
    ("attention over channels", flat(lambda m, x: (x[:, :, None] @ x[:, None, :]).mean(1)), VECTOR, {"hidden": 8}),
    ("transposed convolution", lambda: nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 6, 2), nn.Conv2d(6, 3, 1)), IMAGE, None),
    ("weight norm", lambda: nn.Sequential(
        nn.Linear(5, 8), nn.ReLU(), nn.utils.parametrizations.weight_norm(nn.Linear(8, 3))), VECTOR, None),
    ("constants among outputs", lambda: Lambda(
        lambda m, x: {"out": m.head(F.relu(m.hidden(x))), "nothing": None, "three": 3},
        hidden=nn.Linear(5, 8), head=nn.Linear(8, 3)), VECTOR, {"hidden": 8}),
    ("batch among outputs", lambda: Lambda(
        lambda m, x: (m.head(F.relu(m.hidden(x))), x.shape[0]), hidden=nn.Linear(5, 8), head=nn.Linear(8, 3)),
        VECTOR, {"hidden": 8}),
    ("nothing to prune", lambda: nn.Linear(5, 3), VECTOR, {}),
    ("maxima with places", lambda: nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.MaxPool2d(2), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 3)), IMAGE, {"0": 8}),
    ("self-attention", lambda: Attentive(), (4, 5), None),
    ("recurrent", lambda: Recurrent(), (4, 5), None),
]  # fmt: skip


class Attentive(nn.Module):
    """nn.MultiheadAttention checks its own width."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.hidden(x)
        return self.head(self.attention(x, x, x)[0])


class Recurrent(nn.Module):
    """A GRU over a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head, self.memory = nn.Linear(5, 8), nn.Linear(6, 3), nn.GRU(8, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.memory(self.hidden(x))[0])


def zeroed(graph: ChannelGraph, kept: dict[str, list[int]], inputs: Tensor) -> Any:
    """What the original computes with the columns that read removed units zeroed."""
    record = record_of(graph, kept)
    stays = survivors(graph.provenance, record.cuts)
    return run_masked(graph.program, stays, graph.inputs.of(inputs), masked(graph.program.tensors, record.cuts))[0]


# PyTorch warns of how it exports its own recurrent layers
@pytest.mark.filterwarnings("ignore:The tensor attributes .* were assigned during export")
@pytest.mark.parametrize(
    ("build", "shape", "units"), [row[1:] for row in CONSTRUCTS], ids=[row[0] for row in CONSTRUCTS]
)
def test_exact_or_refused(build: Callable[[], nn.Module], shape: tuple[int, ...], units: dict[str, int] | None) -> None:
    torch.manual_seed(0)
    model, inputs = build().eval(), torch.randn(3, *shape)
    graph = trace(model, inputs)
    found = {group.name: group.units for group in graph.groups}
    assert units is None or found == units
    assert all(frozen.reason.why and frozen.reason.remedy for frozen in graph.frozen)
    rng, refusals = random.Random(0), []
    for _ in range(6):
        kept = {name: sorted(rng.sample(range(n), rng.randint(1, n))) for name, n in found.items()}
        try:
            small = graph.winnow(kept)
        except Refused as refusal:
            refusals.append(refusal)
            continue
        with torch.no_grad():
            expected, got = zeroed(graph, kept, inputs), small.eval()(inputs)
        for left, right in zip(_tensors(expected), _tensors(got), strict=True):
            torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)
    assert units is None or not refusals, f"{found} must be exact, not refused: {refusals}"
    assert all(refusal.op and refusal.remedy for refusal in refusals)


def _tensors(output: Any) -> list[Tensor]:
    leaves = torch.utils._pytree.tree_leaves(output)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def test_frozen_says_what_and_why() -> None:
    model = flat(lambda m, x: x.sort(-1)[0])()
    frozen = {item.tensor: item for item in trace(model, torch.zeros(2, 5)).frozen}
    assert repr(frozen["hidden.weight"]) == "Frozen(hidden.weight[0]: 8 channels, sort: it needs all of these indices)"
    assert frozen["hidden.weight"].to_dict()["remedy"] == "keep the layers that make them at full width"
    assert frozen["head.weight"].reason.why == "the model returns it"


def test_a_norm_over_channels_is_named() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 3))
    (group,) = trace(model, torch.zeros(2, 5)).groups
    assert group.approximate == ("layer_norm in 1",)
