"""Toy models, each with its exact cost and its channel groups as formulas: one table that the tests share.

A formula takes the number of units that each group keeps, so that it holds before and after winnowing. ``readers`` say
which inputs of which layers a unit feeds; ``zeroed`` uses them, and nothing of the workbench, to remove units.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from workbench import trace
from workbench.graph.trace import ChannelGraph

Kept = Mapping[str, Sequence[int]]
Columns = Callable[[int], Sequence[int]]


@dataclass(frozen=True)
class Group:
    """``units`` and, for each layer that reads them, the input channels (or features) that unit u feeds."""

    units: int
    readers: Mapping[str, Columns]


@dataclass(frozen=True)
class Toy:
    """A model builder with what is known of it; ``macs`` and ``params`` take kept units by group."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int], Any]
    groups: Mapping[str, Group]
    macs: Callable[[Mapping[str, int]], int]
    params: Callable[[Mapping[str, int]], int]

    def model(self, seed: int = 0) -> nn.Module:
        """The model with random weights and non-trivial norms, in float64 and train mode."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = self.build().double()
            for module in model.modules():  # some layers of the table were made before the seed was set
                if isinstance(module, nn.Linear | nn.Embedding | nn.modules.conv._ConvNd | nn.RNNBase):
                    module.reset_parameters()
            for tensor in [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]:
                if tensor.ndim == 1:
                    nn.init.uniform_(tensor, 0.5, 1.5)
        return model

    def example(self, batch: int = 2, seed: int = 1) -> Any:
        """Random inputs of this batch size."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.inputs(batch)

    @cached_property
    def graph(self) -> ChannelGraph:
        """The trace of ``model()``, shared by all tests that only read it: the export is what costs time."""
        return trace(self.model(), self.example())

    @property
    def whole(self) -> dict[str, int]:
        """All units of all groups."""
        return {name: group.units for name, group in self.groups.items()}


def own(offset: int = 0, width: int = 1) -> Columns:
    """Unit u feeds ``width`` inputs side by side."""
    return lambda unit: range(offset + unit * width, offset + (unit + 1) * width)


def every(step: int, blocks: int) -> Columns:
    """Unit u feeds position u of each of ``blocks`` blocks of ``step`` inputs."""
    return lambda unit: [unit + step * block for block in range(blocks)]


def call(model: nn.Module, inputs: Any) -> Any:
    """The model on a tensor, a tuple or a dict."""
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def zeroed(toy: Toy, model: nn.Module, kept: Kept, inputs: Any) -> Any:
    """The oracle: the original, with what the removed units feed zeroed at the entrance of every reader."""
    model = copy.deepcopy(model).eval()
    with ExitStack() as stack, torch.no_grad():
        for name, stay in kept.items():
            for layer, columns in toy.groups[name].readers.items():
                gone = [c for unit in range(toy.groups[name].units) if unit not in stay for c in columns(unit)]
                handle = model.get_submodule(layer).register_forward_pre_hook(
                    _zero(torch.tensor(gone, dtype=torch.long))
                )
                stack.callback(handle.remove)
        return call(model, inputs)


def _zero(gone: Tensor) -> Callable[[nn.Module, Any], Tensor]:
    def hook(layer: nn.Module, arguments: Any) -> Tensor:
        (values,) = arguments
        return values.index_fill(values.ndim - 1 if isinstance(layer, nn.Linear) else 1, gone, 0.0)

    return hook


def drawn(toy: Toy, seed: int) -> dict[str, list[int]]:
    """A random subset of the units of every group, at least one each."""
    rng = random.Random(seed)
    return {name: sorted(rng.sample(range(g.units), rng.randint(1, g.units))) for name, g in toy.groups.items()}


def difference(expected: Any, found: Any) -> float:
    """The largest relative difference between two outputs of the same structure."""
    left, right = pytree.tree_leaves(expected), pytree.tree_leaves(found)
    assert [leaf.shape for leaf in left] == [leaf.shape for leaf in right]
    return max(((a - b).abs().max() / a.abs().max().clamp_min(1e-300)).item() for a, b in zip(left, right, strict=True))


class Lambda(nn.Module):
    """Named layers and a forward over them, for models whose forward is one expression."""

    def __init__(self, forward: Callable[..., Any], **layers: Any):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.expression = forward

    def forward(self, x: Any) -> Any:
        return self.expression(self, x)


class Residual(nn.Module):
    """A stem, one block with a strided 1x1 shortcut, one with an identity, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv1, self.norm1 = nn.Conv2d(6, 7, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(7)
        self.conv2, self.norm2 = nn.Conv2d(7, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.shortcut = nn.Conv2d(6, 8, 1, stride=2)
        self.conv3, self.conv4 = nn.Conv2d(8, 5, 1), nn.Conv2d(5, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))) + self.shortcut(x))
        x = F.relu(self.conv4(F.relu(self.conv3(x))) + x)
        return self.head(x.mean((2, 3)))


class Two(nn.Module):
    """Two inputs that meet in a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(4, 6), nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head(F.relu(self.left(left) + self.right(right)))


class Tied(nn.Module):
    """Two layers with one weight: its rows and its columns are the same units."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.head = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.b(F.relu(self.a(F.relu(self.stem(x)))))))


class Excited(nn.Module):
    """Squeeze and excitation, with a learned scale and a fixed one per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)
        self.squeeze, self.excite = nn.Linear(8, 4), nn.Linear(4, 8)
        self.scale = nn.Parameter(torch.rand(1, 8, 1, 1))
        self.register_buffer("shift", torch.rand(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x) * self.scale + self.shift
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))
        return self.out(x * gate[:, :, None, None])


class Variadic(nn.Module):
    """A forward of ``*args``."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.head(F.relu(self.hidden(sum(inputs))))


def _image(*shape: int) -> Callable[[int], Tensor]:
    return lambda batch: torch.randn(batch, *shape, dtype=torch.float64)


def _chain() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3, stride=2), nn.ReLU(), nn.Conv2d(6, 4, 1))


def _norms() -> nn.Module:
    layers = [nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU6(), nn.MaxPool2d(2)]
    return nn.Sequential(
        *layers, nn.Conv2d(8, 5, 2), nn.BatchNorm2d(5, affine=False), nn.Hardswish(), nn.Conv2d(5, 4, 1)
    )


def _separable(multiplier: int) -> Callable[[], nn.Module]:
    wide = 6 * multiplier
    return lambda: nn.Sequential(
        nn.Conv2d(3, 6, 1),
        nn.ReLU(),
        nn.Conv2d(6, wide, 3, padding=1, groups=6),
        nn.BatchNorm2d(wide),
        nn.Conv2d(wide, 4, 1),
    )


def _grouped() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, groups=4), nn.ReLU(), nn.Conv2d(12, 4, 1))


def _flat(*layers: nn.Module) -> Callable[[], nn.Module]:
    return lambda: copy.deepcopy(nn.Sequential(*layers))


TOYS = (
    Toy(
        "chain", _chain, _image(3, 9, 9),
        {"0": Group(8, {"2": own()}), "2": Group(6, {"4": own()})},
        lambda k: 49 * 27 * k["0"] + 9 * 9 * k["0"] * k["2"] + 9 * 4 * k["2"],
        lambda k: 28 * k["0"] + (9 * k["0"] + 1) * k["2"] + (k["2"] + 1) * 4,
    ),
    Toy(
        "conv-bn", _norms, _image(3, 10, 10),
        {"0": Group(8, {"4": own()}), "4": Group(5, {"7": own()})},
        lambda k: 64 * 27 * k["0"] + 9 * 4 * k["0"] * k["4"] + 9 * 4 * k["4"],
        lambda k: 29 * k["0"] + (4 * k["0"] + 1) * k["4"] + (k["4"] + 1) * 4,
    ),
    Toy(
        "residual", Residual, _image(3, 8, 8),
        {
            "stem": Group(6, {"conv1": own(), "shortcut": own()}),
            "conv1": Group(7, {"conv2": own()}),
            "conv2": Group(8, {"conv3": own(), "head": own()}),
            "conv3": Group(5, {"conv4": own()}),
        },
        lambda k: 64 * 27 * k["stem"] + 16 * (9 * k["stem"] * k["conv1"] + 9 * k["conv1"] * k["conv2"])
        + 16 * (k["stem"] * k["conv2"] + 2 * k["conv2"] * k["conv3"]) + 4 * k["conv2"],
        lambda k: 29 * k["stem"] + (9 * k["stem"] + 2) * k["conv1"] + (9 * k["conv1"] + 2) * k["conv2"]
        + (k["stem"] + 1) * k["conv2"] + (2 * k["conv2"] + 1) * k["conv3"] + k["conv2"] + 4 * (k["conv2"] + 1),
    ),
    Toy(
        "functional",
        lambda: Lambda(
            lambda m, x: m.head(F.max_pool2d(F.relu(m.conv(F.pad(x, (1, 1, 1, 1)))), 2).flatten(1)),
            conv=nn.Conv2d(3, 8, 3), head=nn.Linear(8 * 9, 4),
        ),
        _image(3, 6, 6), {"conv": Group(8, {"head": own(width=9)})},
        lambda k: 36 * 27 * k["conv"] + 36 * k["conv"], lambda k: 28 * k["conv"] + 36 * k["conv"] + 4,
    ),
    Toy(
        "separable", _separable(1), _image(3, 5, 5), {"0": Group(6, {"2": own(), "4": own()})},
        lambda k: 25 * (3 + 9 + 4) * k["0"], lambda k: (4 + 10 + 2 + 4) * k["0"] + 4,
    ),
    Toy(
        "multiplier", _separable(2), _image(3, 5, 5), {"0": Group(6, {"2": own(), "4": own(width=2)})},
        lambda k: 25 * (3 + 18 + 8) * k["0"], lambda k: (4 + 20 + 4 + 8) * k["0"] + 4,
    ),
    Toy(
        "grouped", _grouped, _image(3, 5, 5), {"0": Group(2, {"2": every(2, 4)}), "2": Group(3, {"4": every(3, 4)})},
        lambda k: 25 * 12 * k["0"] + 9 * 9 * 4 * k["0"] * k["2"] + 9 * 16 * k["2"],
        lambda k: 16 * k["0"] + 4 * (9 * k["0"] + 1) * k["2"] + 16 * k["2"] + 4,
    ),
    Toy(
        "concat",
        lambda: Lambda(
            lambda m, x: m.out(torch.cat([F.relu(m.a(x)), x, m.b(x)], 1)),
            a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(3, 6, 1), out=nn.Conv2d(13, 2, 1),
        ),
        _image(3, 4, 4), {"a": Group(4, {"out": own()}), "b": Group(6, {"out": own(7)})},
        lambda k: 16 * (5 * (k["a"] + k["b"]) + 6), lambda k: 6 * (k["a"] + k["b"]) + 8,
    ),
    Toy(
        "flatten", _flat(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(64, 5)), _image(1, 6, 6),
        {"0": Group(4, {"2": own(width=16)})}, lambda k: (16 * 9 + 80) * k["0"], lambda k: 90 * k["0"] + 5,
    ),
    Toy(
        "channels-last",
        lambda: Lambda(
            lambda m, x: m.head(m.conv(x).permute(0, 2, 3, 1).flatten(1)),
            conv=nn.Conv2d(1, 4, 3), head=nn.Linear(64, 5),
        ),
        _image(1, 6, 6), {"conv": Group(4, {"head": every(4, 16)})},
        lambda k: (16 * 9 + 80) * k["conv"], lambda k: 90 * k["conv"] + 5,
    ),
    Toy(
        "adaptive-pool",
        _flat(nn.Conv2d(2, 7, 3), nn.SiLU(), nn.AdaptiveAvgPool2d(2),
              nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(7, 3)),
        _image(2, 6, 6), {"0": Group(7, {"5": own()})},
        lambda k: (16 * 18 + 3) * k["0"], lambda k: (19 + 3) * k["0"] + 3,
    ),
    Toy(
        "mlp", _flat(nn.Linear(6, 10), nn.GELU(), nn.Linear(10, 9), nn.Tanh(), nn.Linear(9, 3)), _image(4, 6),
        {"0": Group(10, {"2": own()}), "2": Group(9, {"4": own()})},
        lambda k: 4 * (6 * k["0"] + k["0"] * k["2"] + 3 * k["2"]),
        lambda k: 7 * k["0"] + (k["0"] + 1) * k["2"] + 3 * k["2"] + 3,
    ),
    Toy(
        "folded-time",
        lambda: Lambda(
            lambda m, x: m.head(F.relu(m.hidden(x.reshape(-1, 6)))).reshape(-1, 4, 3),
            hidden=nn.Linear(6, 8), head=nn.Linear(8, 3),
        ),
        _image(4, 6), {"hidden": Group(8, {"head": own()})}, lambda k: 36 * k["hidden"], lambda k: 10 * k["hidden"] + 3,
    ),
    Toy(
        "linear-bn", _flat(nn.Linear(6, 10), nn.BatchNorm1d(10), nn.LeakyReLU(), nn.Dropout(), nn.Linear(10, 3)),
        _image(6),
        {"0": Group(10, {"4": own()})}, lambda k: 9 * k["0"], lambda k: 12 * k["0"] + 3,
    ),
    Toy(
        "conv1d", _flat(nn.Conv1d(2, 6, 3), nn.ELU(), nn.AvgPool1d(2), nn.Conv1d(6, 3, 3, padding="same")),
        _image(2, 10),
        {"0": Group(6, {"3": own()})}, lambda k: (8 * 6 + 4 * 9) * k["0"], lambda k: (7 + 9) * k["0"] + 3,
    ),
    Toy(
        "conv3d", _flat(nn.Conv3d(1, 5, 2), nn.Sigmoid(), nn.Conv3d(5, 2, (1, 2, 2))), _image(1, 3, 4, 4),
        {"0": Group(5, {"2": own()})}, lambda k: (18 * 8 + 8 * 8) * k["0"], lambda k: (9 + 8) * k["0"] + 2,
    ),
    Toy(
        "prelu", _flat(nn.Conv2d(2, 6, 1), nn.PReLU(6), nn.Conv2d(6, 5, 1), nn.PReLU(), nn.Conv2d(5, 2, 1)),
        _image(2, 3, 3),
        {"0": Group(6, {"2": own()}), "2": Group(5, {"4": own()})},
        lambda k: 9 * (2 * k["0"] + k["0"] * k["2"] + 2 * k["2"]),
        lambda k: 4 * k["0"] + (k["0"] + 1) * k["2"] + 1 + 2 * k["2"] + 2,
    ),
    Toy(
        "upsampled", _flat(nn.Conv2d(2, 6, 1), nn.Upsample(scale_factor=2), nn.ZeroPad2d(1), nn.Conv2d(6, 2, 3)),
        _image(2, 3, 3),
        {"0": Group(6, {"3": own()})}, lambda k: (18 + 36 * 18) * k["0"], lambda k: (3 + 18) * k["0"] + 2,
    ),
    Toy(
        "excited", Excited, _image(3, 5, 5),
        {"conv": Group(8, {"squeeze": own(), "out": own()}), "squeeze": Group(4, {"excite": own()})},
        lambda k: 9 * 29 * k["conv"] + 2 * k["conv"] * k["squeeze"],
        lambda k: (28 + 1 + 2) * k["conv"] + 2 + (k["conv"] + 1) * k["squeeze"] + (k["squeeze"] + 1) * k["conv"],
    ),
    Toy(
        "tied", Tied, _image(5), {"stem": Group(6, {"a": own(), "b": own(), "head": own()})},
        lambda k: 8 * k["stem"] + 2 * k["stem"] ** 2, lambda k: 6 * k["stem"] + k["stem"] ** 2 + 5 * k["stem"] + 3,
    ),
    Toy(
        "called-twice",
        lambda: Lambda(
            lambda m, x: m.head(F.relu(m.body(F.relu(m.body(F.relu(m.stem(x))))))),
            stem=nn.Linear(5, 6), body=nn.Linear(6, 6), head=nn.Linear(6, 3),
        ),
        _image(5), {"stem": Group(6, {"body": own(), "head": own()})},
        lambda k: 8 * k["stem"] + 2 * k["stem"] ** 2,
        lambda k: 6 * k["stem"] + (k["stem"] + 1) * k["stem"] + 3 * k["stem"] + 3,
    ),
    Toy(
        "two-inputs", Two, lambda batch: (_image(4)(batch), _image(3)(batch)), {"left": Group(6, {"head": own()})},
        lambda k: 9 * k["left"], lambda k: 11 * k["left"] + 2,
    ),
    Toy(
        "keyword-inputs", Two, lambda batch: {"right": _image(3)(batch), "left": _image(4)(batch)},
        {"left": Group(6, {"head": own()})}, lambda k: 9 * k["left"], lambda k: 11 * k["left"] + 2,
    ),
    Toy(
        "dict-output",
        lambda: Lambda(
            lambda m, x: {"wide": m.wide(h := F.relu(m.hidden(x))), "narrow": m.narrow(h)},
            hidden=nn.Linear(5, 8), wide=nn.Linear(8, 4), narrow=nn.Linear(8, 1),
        ),
        _image(5), {"hidden": Group(8, {"wide": own(), "narrow": own()})},
        lambda k: 10 * k["hidden"], lambda k: 11 * k["hidden"] + 5,
    ),
    Toy(
        "returns-its-input",
        lambda: Lambda(lambda m, x: (x, m.head(F.relu(m.hidden(x)))), hidden=nn.Linear(5, 8), head=nn.Linear(8, 3)),
        _image(5), {"hidden": Group(8, {"head": own()})}, lambda k: 8 * k["hidden"], lambda k: 9 * k["hidden"] + 3,
    ),
    Toy(
        "any-number-of-inputs", Variadic, lambda batch: (_image(5)(batch), _image(5)(batch)),
        {"hidden": Group(8, {"head": own()})}, lambda k: 8 * k["hidden"], lambda k: 9 * k["hidden"] + 3,
    ),
    Toy(
        "token-ids",
        lambda: Lambda(
            lambda m, x: m.head(F.relu(m.hidden(m.table(x)) + torch.arange(x.shape[1])[:, None])),
            table=nn.Embedding(11, 4), hidden=nn.Linear(4, 6), head=nn.Linear(6, 3),
        ),
        lambda batch: torch.randint(0, 11, (batch, 7)),
        {"table": Group(4, {"hidden": own()}), "hidden": Group(6, {"head": own()})},
        lambda k: 7 * k["hidden"] * (k["table"] + 3), lambda k: 11 * k["table"] + k["hidden"] * (k["table"] + 4) + 3,
    ),
)  # fmt: skip


BY_NAME = {toy.name: toy for toy in TOYS}
