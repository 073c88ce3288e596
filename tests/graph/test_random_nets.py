"""Random convolutional nets: chains, residual additions, projections, depthwise, norms, pools, concatenations."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.models import Group, Toy, call, difference, drawn, own, zeroed
from workbench import trace
from workbench.cost.count import count
from workbench.cost.work import work_products

KINDS = ("plain", "norm", "identity", "projection", "depthwise", "pool", "concat")
Steps = list[tuple[str, int]]


class Net(nn.Module):
    """Steps on a stream of channels; every convolution is ``layers[i]``, in the order of creation."""

    def __init__(self, steps: Steps, width: int):
        super().__init__()
        self.layers, self.norms, self.plan = nn.ModuleList(), nn.ModuleDict(), []
        self._conv(2, width, 3)
        for kind, size in steps:
            first = len(self.layers)
            if kind in ("plain", "norm"):
                self._conv(width, size, 1)
            elif kind == "depthwise":
                self._conv(width, width, 3, groups=width)
            elif kind in ("identity", "projection"):
                after = width if kind == "identity" else size
                self._conv(width, size + 1, 3)
                self._conv(size + 1, after, 1)
                if kind == "projection":
                    self._conv(width, after, 1)
            elif kind == "concat":
                self._conv(width, size, 1)
                self._conv(width + size, size, 1)
            if kind in ("norm", "identity"):
                self.norms[str(first)] = nn.BatchNorm2d(self.layers[first].out_channels)
            self.plan.append((kind, first))
            width = self.layers[-1].out_channels
        self.head = nn.Linear(width, 3)

    def _conv(self, before: int, after: int, kernel: int, groups: int = 1) -> None:
        self.layers.append(nn.Conv2d(before, after, kernel, padding=kernel // 2, groups=groups))

    def _norm(self, first: int, x: Tensor) -> Tensor:
        return self.norms[str(first)](x) if str(first) in self.norms else x

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers[0](x)
        for kind, first in self.plan:
            if kind == "pool":
                x = F.avg_pool2d(x, 3, stride=1, padding=1)
                continue
            hidden = F.relu(self._norm(first, self.layers[first](x)))
            if kind in ("identity", "projection"):
                across = x if kind == "identity" else self.layers[first + 2](x)
                x = F.relu(self.layers[first + 1](hidden) + across)
            elif kind == "concat":
                x = self.layers[first + 1](torch.cat([x, hidden], 1))
            else:
                x = hidden
        return self.head(x.mean((2, 3)))


@dataclass
class Books:
    """Which layers read which group, kept beside the construction and apart from the workbench."""

    width: dict[str, int] = field(default_factory=dict)
    readers: dict[str, dict[str, object]] = field(default_factory=dict)

    def open(self, layer: int, width: int) -> str:
        """A new group, made by a layer."""
        name = f"layers.{layer}"
        self.width[name], self.readers[name] = width, {}
        return name

    def read(self, group: str, layer: str, offset: int = 0) -> None:
        """A layer reads a group."""
        self.readers[group][layer] = own(offset)


def books(steps: Steps, width: int) -> Books:
    """The groups that a net of these steps has."""
    book = Books()
    stream, place = book.open(0, width), 1
    for kind, size in steps:
        here = f"layers.{place}"
        if kind == "depthwise":
            book.read(stream, here)
            place += 1
        elif kind in ("plain", "norm"):
            book.read(stream, here)
            stream, place = book.open(place, size), place + 1
        elif kind in ("identity", "projection"):
            book.read(stream, here)
            book.read(book.open(place, size + 1), f"layers.{place + 1}")
            if kind == "projection":
                book.read(stream, f"layers.{place + 2}")
                stream, place = book.open(place + 1, size), place + 1
            place += 2
        elif kind == "concat":
            book.read(stream, here)
            book.read(stream, f"layers.{place + 1}")
            book.read(book.open(place, size), f"layers.{place + 1}", offset=book.width[stream])
            stream, place = book.open(place + 1, size), place + 2
    book.read(stream, "head")
    return book


def toy_of(steps: Steps, width: int) -> Toy:
    """The net as an entry of the shared table."""
    book = books(steps, width)
    groups = {name: Group(units, book.readers[name]) for name, units in book.width.items()}
    return Toy("random", lambda: Net(steps, width), lambda n: torch.randn(n, 2, 5, 5).double(), groups, len, len)


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    steps=st.lists(st.tuples(st.sampled_from(KINDS), st.integers(2, 6)), max_size=3),
    width=st.integers(2, 6), seed=st.integers(0, 2**16),
)  # fmt: skip
def test_random_nets_winnow_exactly(steps: Steps, width: int, seed: int) -> None:
    toy = toy_of(steps, width)
    model = toy.model(seed)
    graph = trace(model, toy.example())
    assert {group.name: group.units for group in graph.groups} == toy.whole
    kept = drawn(toy, seed)
    small = graph.winnow(kept)
    inputs = toy.example(3, seed)
    with torch.no_grad():
        assert difference(zeroed(toy, model, kept, inputs), call(small.eval(), inputs)) <= 1e-10
    counts = {name: len(units) for name, units in kept.items()}
    parts = [part for _, parts in work_products(graph, {}) for part in parts]
    assert sum(part.at(counts) for part in parts) == count(small, inputs).macs
