"""Random architectures: any sequence of the steps below makes a model, whatever the sizes are.

A step reads the current tensor and may save it for a later one; it says what shape it makes. Images are
``[N, channels, side, side]``, tokens ``[N, length, features]``.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """``image``: width channels on a square of this size; else so many tokens of that width."""

    image: bool
    width: int
    size: int

    def wide(self, width: int) -> Shape:
        return Shape(self.image, width, self.size)


class Step(nn.Module):
    """One step; ``shape`` is what it makes. ``fits`` says of what it can be made."""

    shape: Shape

    @staticmethod
    def fits(shape: Shape) -> bool:
        return shape.image

    def __init__(self, before: Shape, draw: random.Random):
        super().__init__()
        self.shape = before
        self.build(before, draw)

    def build(self, before: Shape, draw: random.Random) -> None:
        """Make the modules, and ``shape`` where it changes."""

    def forward(self, x: Tensor, saved: list[tuple[Tensor, Shape]]) -> Tensor:
        raise NotImplementedError


def some(draw: random.Random) -> int:
    return draw.randint(2, 8)


def divisor(draw: random.Random, *numbers: int) -> int:
    common = math.gcd(*numbers)
    return draw.choice([d for d in range(1, common + 1) if common % d == 0])


class Convolution(Step):
    def build(self, before: Shape, draw: random.Random) -> None:
        kernel, groups = draw.choice((1, 3)), divisor(draw, before.width)
        out = groups * draw.randint(1, 4)
        self.main = nn.Conv2d(before.width, out, kernel, padding=kernel // 2, groups=groups, bias=draw.random() < 0.5)
        self.shape = before.wide(out)

    def forward(self, x: Tensor, saved: list[tuple[Tensor, Shape]]) -> Tensor:
        return F.relu(self.main(x), inplace=True)


class Depthwise(Step):
    def build(self, before: Shape, draw: random.Random) -> None:
        out = before.width * draw.choice((1, 1, 2))
        self.main = nn.Conv2d(before.width, out, 3, padding=1, groups=before.width)
        self.shape = before.wide(out)

    def forward(self, x: Tensor, saved: list[tuple[Tensor, Shape]]) -> Tensor:
        return self.main(x)


class Transposed(Step):
    def build(self, before: Shape, draw: random.Random) -> None:
        groups = divisor(draw, before.width)
        out = groups * draw.randint(1, 4)
        self.main = nn.ConvTranspose2d(before.width, out, 3, padding=1, groups=groups)
        self.shape = before.wide(out)

    def forward(self, x: Tensor, saved: list[tuple[Tensor, Shape]]) -> Tensor:
        return self.main(x)


class Norm(Step):
    @staticmethod
    def fits(shape: Shape) -> bool:
        return shape.image and shape.size > 1  # an instance norm wants several places

    def build(self, before: Shape, draw: random.Random) -> None:
        kinds = [nn.BatchNorm2d(before.width), nn.InstanceNorm2d(before.width, affine=True),
                 nn.GroupNorm(divisor(draw, before.width), before.width)]  # fmt: skip
        self.main = draw.choice(kinds)
        for tensor in (*self.main.parameters(), *self.main.buffers()):
            if tensor.is_floating_point():
                nn.init.uniform_(tensor, 0.5, 1.5)

    def forward(self, x: Tensor, saved: list[tuple[Tensor, Shape]]) -> Tensor:
        return self.main(x)


class Activation(Step):
    @staticmethod
    def fits(shape: Shape) -> bool:
        return True

    def build(self, before: Shape, draw: random.Random) -> None:
        kinds = [nn.ReLU(inplace=True), nn.GELU(), nn.Hardswish(), nn.SiLU(inplace=True), nn.Tanh(), nn.Dropout(0.3)]
        self.main = draw.choice([*kinds, nn.PReLU(before.width if before.image else 1)])

    def forward(self, x: Tensor, saved: list[tuple[Tensor, Shape]]) -> Tensor:
        return self.main(x)


class Residual(Step):
    def build(self, before: Shape, draw: random.Random) -> None:
        inner = some(draw)
        self.first, self.second = nn.Conv2d(before.width, inner, 3, padding=1), nn.Conv2d(inner, before.width, 1)
        self.norm, self.in_place = nn.BatchNorm2d(inner), draw.random() < 0.5

    def forward(self, x: Tensor, saved: list[tuple[Tensor, Shape]]) -> Tensor:
        inner = self.second(F.relu(self.norm(self.first(x))))
        if self.in_place:
            inner += x
            return inner.relu_()
        return inner + x


class Save(Step):
    def forward(self, x: Tensor, saved: list[tuple[Tensor, Shape]]) -> Tensor:
        saved.append((x, self.shape))
        return x


class Join(Step):
    """With what was saved last: added, multiplied or concatenated; a projection where the widths differ."""

    def build(self, before: Shape, draw: random.Random) -> None:
        self.kind = draw.choice(("add", "multiply", "concatenate", "concatenate before", "twice"))

    def meet(self, other: Shape | None) -> None:
        """The shape it makes with what is saved."""
        if other is None:
            return
        if self.kind in ("add", "multiply"):
            self.project = nn.Conv2d(other.width, self.shape.width, 1) if other.width != self.shape.width else None
        else:
            times = 2 if self.kind == "twice" else 1
            self.shape = self.shape.wide(self.shape.width + times * other.width)

    def forward(self, x: Tensor, saved: list[tuple[Tensor, Shape]]) -> Tensor:
        if not saved:
            return x
        other, shape = saved.pop()
        if shape.size != self.shape.size:
            other = F.interpolate(other, size=(self.shape.size, self.shape.size), mode="nearest")
        if self.kind in ("add", "multiply"):
            other = other if self.project is None else self.project(other)
            return x + other if self.kind == "add" else x * other.sigmoid()
        parts = {"concatenate": [x, other], "concatenate before": [other, x], "twice": [other, x, other]}[self.kind]
        return torch.cat(parts, 1)


class Gate(Step):
    def build(self, before: Shape, draw: random.Random) -> None:
        inner = some(draw)
        self.linear = draw.random() < 0.5
        layer = nn.Linear if self.linear else (lambda a, b: nn.Conv2d(a, b, 1))
        self.down, self.up = layer(before.width, inner), layer(inner, before.width)

    def forward(self, x: Tensor, saved: list[tuple[Tensor, Shape]]) -> Tensor:
        mean = x.mean((2, 3)) if self.linear else F.adaptive_avg_pool2d(x, 1)
        gate = self.up(F.relu(self.down(mean))).sigmoid()
        return x * (gate[:, :, None, None] if self.linear else gate)


class Split(Step):
    @staticmethod
    def fits(shape: Shape) -> bool:
        return shape.image and shape.width > 1

    def build(self, before: Shape, draw: random.Random) -> None:
        self.kind = draw.choice(("split", "chunk", "slice", "narrow"))
        self.left = -(-before.width // 2) if self.kind == "chunk" else draw.randint(1, before.width - 1)
        out = some(draw)
        self.main = nn.Conv2d(self.left, out, 1)
        self.keep = draw.random() < 0.7
        self.shape = before.wide(out + (before.width - self.left) * self.keep)

    def forward(self, x: Tensor, saved: list[tuple[Tensor, Shape]]) -> Tensor:
        if self.kind == "split":
            left, right = torch.split(x, [self.left, x.shape[1] - self.left], 1)
        elif self.kind == "chunk":
            left, right = x.chunk(2, 1)
        elif self.kind == "slice":
            left, right = x[:, : self.left], x[:, self.left :]
        else:
            left, right = x.narrow(1, 0, self.left), x[:, self.left - x.shape[1] :]
        return torch.cat([right, self.main(left)], 1) if self.keep else self.main(left)


class Shuffle(Step):
    def build(self, before: Shape, draw: random.Random) -> None:
        self.groups, self.numbers, self.width = divisor(draw, before.width), draw.random() < 0.5, before.width

    def forward(self, x: Tensor, saved: list[tuple[Tensor, Shape]]) -> Tensor:
        batch, channels, high, wide = x.shape
        each = self.width // self.groups if self.numbers else channels // self.groups
        return x.view(batch, self.groups, each, high, wide).transpose(1, 2).reshape(batch, -1, high, wide)


class Order(Step):
    def build(self, before: Shape, draw: random.Random) -> None:
        self.kind = draw.choice(("flip", "roll", "index", "select", "stride"))
        self.by = draw.randint(1, before.width)
        places = draw.sample(range(before.width), before.width)
        self.register_buffer("places", torch.tensor(places))
        self.shape = before.wide(-(-before.width // 2)) if self.kind == "stride" else before

    def forward(self, x: Tensor, saved: list[tuple[Tensor, Shape]]) -> Tensor:
        if self.kind == "flip":
            return x.flip(1)
        if self.kind == "roll":
            return torch.roll(x, self.by, 1)
        if self.kind == "stride":
            return x[:, ::2]
        return x[:, self.places] if self.kind == "index" else x.index_select(1, self.places)


class Pad(Step):
    def build(self, before: Shape, draw: random.Random) -> None:
        self.before, self.after = draw.randint(0, 2), draw.randint(0, 2)
        self.shape = before.wide(before.width + self.before + self.after)

    def forward(self, x: Tensor, saved: list[tuple[Tensor, Shape]]) -> Tensor:
        return F.pad(x, (0, 0, 0, 0, self.before, self.after))


class Pixels(Step):
    @staticmethod
    def fits(shape: Shape) -> bool:
        return shape.image and (shape.size % 2 == 0 or (shape.width % 4 == 0 and shape.size < 8))

    def build(self, before: Shape, draw: random.Random) -> None:
        shuffles = before.width % 4 == 0 and before.size < 8 and (before.size % 2 or draw.random() < 0.6)
        self.main = nn.PixelShuffle(2) if shuffles else nn.PixelUnshuffle(2)
        width, size = (before.width // 4, before.size * 2) if shuffles else (before.width * 4, before.size // 2)
        self.shape = Shape(True, width, size)

    def forward(self, x: Tensor, saved: list[tuple[Tensor, Shape]]) -> Tensor:
        return self.main(x)


class Pool(Step):
    @staticmethod
    def fits(shape: Shape) -> bool:
        return shape.image and shape.size > 1

    def build(self, before: Shape, draw: random.Random) -> None:
        self.main = draw.choice((nn.AvgPool2d(2), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(before.size // 2)))
        self.shape = Shape(True, before.width, before.size // 2)

    def forward(self, x: Tensor, saved: list[tuple[Tensor, Shape]]) -> Tensor:
        return self.main(x)


class Repeat(Step):
    @staticmethod
    def fits(shape: Shape) -> bool:
        return shape.image and shape.width < 12

    def build(self, before: Shape, draw: random.Random) -> None:
        self.kind = draw.choice(("repeat", "interleave", "concatenate", "expand"))
        self.shape = before.wide(2 * before.width)

    def forward(self, x: Tensor, saved: list[tuple[Tensor, Shape]]) -> Tensor:
        if self.kind == "repeat":
            return x.repeat(1, 2, 1, 1)
        if self.kind == "interleave":
            return x.repeat_interleave(2, 1)
        if self.kind == "concatenate":
            return torch.cat([x, x], 1)
        return x[:, :, None].expand(-1, -1, 2, -1, -1).flatten(1, 2)


class Shared(Step):
    def build(self, before: Shape, draw: random.Random) -> None:
        self.main, self.norm = nn.Conv2d(before.width, before.width, 3, padding=1), nn.BatchNorm2d(before.width)

    def forward(self, x: Tensor, saved: list[tuple[Tensor, Shape]]) -> Tensor:
        return self.norm(self.main(F.relu(self.main(x))))


class Stack(Step):
    def build(self, before: Shape, draw: random.Random) -> None:
        out = some(draw)
        self.one, self.other = nn.Conv2d(before.width, out, 1), nn.Conv2d(before.width, out, 3, padding=1)
        self.kind = draw.choice(("sum", "unbind", "maximum"))
        self.shape = before.wide(out)

    def forward(self, x: Tensor, saved: list[tuple[Tensor, Shape]]) -> Tensor:
        both = torch.stack([self.one(x), self.other(x)], 1)
        if self.kind == "unbind":
            one, other = both.unbind(1)
            return one * other.sigmoid()
        return both.sum(1) if self.kind == "sum" else both.amax(1)


class Written(Step):
    """Into a part of a tensor."""

    def build(self, before: Shape, draw: random.Random) -> None:
        self.until = draw.randint(1, before.width)

    def forward(self, x: Tensor, saved: list[tuple[Tensor, Shape]]) -> Tensor:
        x = x.clone()
        x[:, : self.until] = x[:, : self.until].relu() * 0.5
        return x


class Tokens(Step):
    def build(self, before: Shape, draw: random.Random) -> None:
        self.kind = draw.choice(("flatten", "permute", "patches"))
        if self.kind == "patches" and before.size % 2 == 0:
            self.shape = Shape(False, before.width * 4, before.size**2 // 4)
        else:
            self.kind = "flatten" if self.kind == "patches" else self.kind
            self.shape = Shape(False, before.width, before.size**2)

    def forward(self, x: Tensor, saved: list[tuple[Tensor, Shape]]) -> Tensor:
        if self.kind == "flatten":
            return x.flatten(2).transpose(1, 2)
        if self.kind == "permute":
            return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, x.shape[1])
        batch, channels, high, wide = x.shape
        x = x.reshape(batch, channels, high // 2, 2, wide // 2, 2).permute(0, 2, 4, 3, 5, 1)
        return x.reshape(batch, -1, 4 * channels)


class Words(Step):
    """A step on tokens."""

    @staticmethod
    def fits(shape: Shape) -> bool:
        return not shape.image


class Image(Words):
    @staticmethod
    def fits(shape: Shape) -> bool:
        return not shape.image and math.isqrt(shape.size) ** 2 == shape.size

    def build(self, before: Shape, draw: random.Random) -> None:
        self.side = math.isqrt(before.size)
        self.shape = Shape(True, before.width, self.side)

    def forward(self, x: Tensor, saved: list[tuple[Tensor, Shape]]) -> Tensor:
        return x.transpose(1, 2).reshape(x.shape[0], -1, self.side, self.side)


class Linear(Words):
    def build(self, before: Shape, draw: random.Random) -> None:
        out = some(draw)
        self.weight = nn.Parameter(torch.randn(before.width, out))
        self.main = nn.Linear(before.width, out)
        self.bare = draw.random() < 0.3
        self.shape = before.wide(out)

    def forward(self, x: Tensor, saved: list[tuple[Tensor, Shape]]) -> Tensor:
        return x @ self.weight if self.bare else self.main(x)


class Perceptron(Words):
    def build(self, before: Shape, draw: random.Random) -> None:
        self.kind, inner = draw.choice(("plain", "glu", "swiglu", "chunk")), some(draw)
        self.up = nn.Linear(before.width, inner if self.kind in ("plain", "swiglu") else 2 * inner)
        self.gate = nn.Linear(before.width, inner) if self.kind == "swiglu" else None
        self.down = nn.Linear(inner, before.width)

    def forward(self, x: Tensor, saved: list[tuple[Tensor, Shape]]) -> Tensor:
        inner = self.up(x)
        if self.kind == "plain":
            inner = F.gelu(inner)
        elif self.kind == "glu":
            inner = F.glu(inner, -1)
        elif self.kind == "swiglu":
            assert self.gate is not None
            inner = F.silu(self.gate(x)) * inner
        else:
            gate, value = inner.chunk(2, -1)
            inner = gate.sigmoid() * value
        return x + self.down(inner)


class Attention(Words):
    @staticmethod
    def fits(shape: Shape) -> bool:
        return not shape.image and shape.width > 1

    def build(self, before: Shape, draw: random.Random) -> None:
        width, several = before.width, [d for d in range(2, before.width + 1) if before.width % d == 0]
        # a single head cannot leave: its features do, and no weight of zero makes up for those in the scores
        self.kind = draw.choice(("module", "joint", "by hand", "einsum", "grouped"))
        self.heads, self.size = draw.choice((2, 4)), draw.choice((2, 3))
        inner = self.heads * self.size
        if self.kind == "module":
            self.heads = draw.choice(several)
            self.main = nn.MultiheadAttention(width, self.heads, batch_first=True)
            return
        self.keys = self.heads // 2 if self.kind == "grouped" else self.heads
        if self.kind == "joint":
            self.qkv = nn.Linear(width, 3 * inner)
        else:
            self.q = nn.Linear(width, inner)
            self.k, self.v = (nn.Linear(width, self.keys * self.size) for _ in range(2))
        self.out = nn.Linear(inner, width)

    def forward(self, x: Tensor, saved: list[tuple[Tensor, Shape]]) -> Tensor:
        if self.kind == "module":
            return x + self.main(x, x, x, need_weights=False)[0]
        batch, length, _ = x.shape
        if self.kind == "joint":
            joint = self.qkv(x).reshape(batch, length, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(*joint.unbind(0)).transpose(1, 2)
            return x + self.out(mixed.reshape(batch, length, self.heads * self.size))
        q = self.q(x).view(batch, length, self.heads, self.size)
        k, v = (layer(x).view(batch, length, self.keys, self.size) for layer in (self.k, self.v))
        if self.kind == "einsum":
            weights = torch.einsum("blhd,bmhd->bhlm", q, k).softmax(-1)
            return x + self.out(torch.einsum("bhlm,bmhd->blhd", weights, v).flatten(2))
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        if self.kind == "grouped":
            k, v = (part.repeat_interleave(self.heads // self.keys, 1) for part in (k, v))
        mixed = (q @ k.mT / self.size**0.5).softmax(-1) @ v
        return x + self.out(mixed.transpose(1, 2).reshape(batch, length, -1))


class Recurrent(Words):
    def build(self, before: Shape, draw: random.Random) -> None:
        kind, hidden, both = draw.choice((nn.LSTM, nn.GRU)), some(draw), draw.random() < 0.3
        self.main = kind(before.width, hidden, batch_first=True, bidirectional=both)
        self.shape = before.wide(hidden * (2 if both else 1))

    def forward(self, x: Tensor, saved: list[tuple[Tensor, Shape]]) -> Tensor:
        return self.main(x)[0]


class LayerNorm(Words):
    def build(self, before: Shape, draw: random.Random) -> None:
        self.main = draw.choice((nn.LayerNorm, nn.RMSNorm))(before.width)

    def forward(self, x: Tensor, saved: list[tuple[Tensor, Shape]]) -> Tensor:
        return self.main(x)


STEPS: tuple[type[Step], ...] = (
    Convolution, Depthwise, Transposed, Norm, Activation, Residual, Save, Join, Gate, Split, Shuffle, Order, Pad,
    Pixels, Pool, Repeat, Shared, Stack, Written, Tokens, Image, Linear, Perceptron, Attention, Recurrent, LayerNorm,
)  # fmt: skip


class RandomModel(nn.Module):
    """The steps that fit, in order, between a first convolution and a linear layer on means or on everything.

    A step is given by its class and the seed of all that it chooses.
    """

    def __init__(self, steps: Sequence[tuple[type[Step], int]]):
        super().__init__()
        draw = random.Random(len(steps))
        shape = Shape(True, some(draw), 4)
        self.stem = nn.Conv2d(2, shape.width, 3, padding=1)
        self.steps = nn.ModuleList()
        saved: list[Shape] = []
        for kind, seed in steps:
            if not kind.fits(shape) or shape.width > 40:
                continue
            step = kind(shape, random.Random(seed))
            if isinstance(step, Join):
                step.meet(saved.pop() if saved else None)
            if isinstance(step, Save):
                saved.append(shape)
            shape = step.shape
            self.steps.append(step)
        self.shape, self.whole = shape, draw.random() < 0.3
        self.head = nn.Linear(shape.width * (self._places() if self.whole else 1), 3)

    def _places(self) -> int:
        return self.shape.size**2 if self.shape.image else self.shape.size

    def forward(self, x: Tensor) -> Tensor:
        saved: list[tuple[Tensor, Shape]] = []
        x = self.stem(x)
        for step in self.steps:
            x = step(x, saved)
        if self.whole:
            return self.head(x.flatten(1))
        return self.head(x.mean((2, 3) if self.shape.image else 1))
