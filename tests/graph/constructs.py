"""Small networks, one for each way in which channels travel: with the units that must be found."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.models import Lambda


@dataclass(frozen=True, eq=False)
class Construct:
    """A network, its inputs for a batch size, and the units of each group; ``approximate`` groups have a star."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int], Any]
    units: dict[str, int]


def image(*shape: int) -> Callable[[int], Any]:
    """Random inputs of this shape."""
    return lambda batch: torch.randn(batch, *shape)


def tokens(length: int = 6, vocabulary: int = 11) -> Callable[[int], Any]:
    """Random token numbers."""
    return lambda batch: torch.randint(0, vocabulary, (batch, length))


def conv(
    expression: Callable[[Any, Tensor], Any], wide: int = 8, out: int | None = None, **layers: Any
) -> Callable[[], nn.Module]:
    """A convolution, an expression of its output, and a convolution behind it."""
    return lambda: Lambda(
        lambda m, x: m.head(expression(m, m.hidden(x))), hidden=nn.Conv2d(3, wide, 3, padding=1),
        head=nn.Conv2d(out or wide, 3, 1), **{name: make() for name, make in layers.items()},
    )  # fmt: skip


def line(
    expression: Callable[[Any, Tensor], Any], wide: int = 8, out: int | None = None, **layers: Any
) -> Callable[[], nn.Module]:
    """A linear layer, an expression of its output, and a linear layer behind it."""
    return lambda: Lambda(
        lambda m, x: m.head(expression(m, m.hidden(x))), hidden=nn.Linear(5, wide), head=nn.Linear(out or wide, 3),
        **{name: make() for name, make in layers.items()},
    )  # fmt: skip


class Attention(nn.Module):
    """Attention written by hand: fused or apart, with as many key heads, by product or by einsum, turned or not."""

    def __init__(
        self,
        heads: int = 4,
        kv: int = 4,
        width: int = 16,
        how: str = "sdpa",
        fused: bool = False,
        rope: bool = False,
        infer: bool = False,
    ):
        super().__init__()
        self.heads, self.kv, self.size, self.how, self.rope, self.infer = heads, kv, width // heads, how, rope, infer
        self.hidden = nn.Linear(5, 12)
        if fused:
            self.qkv = nn.Linear(12, 3 * width)
        else:
            self.q, self.k, self.v = (nn.Linear(12, n * self.size) for n in (heads, kv, kv))
        self.out, self.head = nn.Linear(width, 12), nn.Linear(12, 3)
        self.register_buffer(
            "angles", torch.outer(torch.arange(4.0), torch.logspace(0, -1, self.size // 2)), persistent=False
        )

    def turn(self, x: Tensor) -> Tensor:
        angles = torch.cat([self.angles, self.angles], -1)
        first, second = x.chunk(2, -1)
        return x * angles.cos() + torch.cat([-second, first], -1) * angles.sin()

    def forward(self, x: Tensor) -> Tensor:
        x = self.hidden(x).relu()
        batch, length, _ = x.shape
        if hasattr(self, "qkv"):
            q, k, v = self.qkv(x).reshape(batch, length, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
        else:
            q, k, v = (
                f(x).view(batch, length, n, -1 if self.infer else self.size).transpose(1, 2)
                for f, n in ((self.q, self.heads), (self.k, self.kv), (self.v, self.kv))
            )
        if self.rope:
            q, k = self.turn(q), self.turn(k)
        if self.kv < self.heads and self.how != "gqa":
            k, v = (t[:, :, None].expand(-1, -1, self.heads // self.kv, -1, -1).flatten(1, 2) for t in (k, v))
        if self.how in ("sdpa", "gqa"):
            y = F.scaled_dot_product_attention(q, k, v, enable_gqa=self.how == "gqa")
        elif self.how == "einsum":
            y = torch.einsum(
                "bhls,bhsd->bhld", (torch.einsum("bhld,bhsd->bhls", q, k) / math.sqrt(self.size)).softmax(-1), v
            )
        else:
            mask = torch.full((length, length), -math.inf).triu(1)
            y = ((q @ k.transpose(-2, -1)) * self.size**-0.5 + mask).softmax(-1) @ v
        return self.head(x + self.out(y.transpose(1, 2).reshape(batch, length, -1)))


class MultiQuery(nn.Module):
    """Four heads of queries on one of keys and values; ``window`` joins batch and heads and takes a slice of both."""

    def __init__(self, window: bool = False):
        super().__init__()
        self.q, self.k, self.v, self.out = nn.Linear(8, 8), nn.Linear(8, 2), nn.Linear(8, 2), nn.Linear(8, 3)
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        q = self.q(x).unflatten(-1, (4, 2)).transpose(1, 2)
        k, v = self.k(x)[:, None].expand(-1, 4, -1, -1), self.v(x)[:, None].expand(-1, 4, -1, -1)
        if self.window:
            q = q.flatten(0, 1)[: 4 * batch].unflatten(0, (batch, -1))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, -1, 8))


class Module(nn.Module):
    """A network around one module that is called by a function of itself and the hidden values."""

    def __init__(self, body: nn.Module, call: Callable[[Any, Tensor], Tensor], wide: int = 8, out: int = 8):
        super().__init__()
        self.hidden, self.body, self.head, self.call = nn.Linear(5, wide), body, nn.Linear(out, 3), call

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.call(self.body, self.hidden(x)))


class Tied(nn.Module):
    """A language model whose head is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up, self.down, self.head = (
            nn.Embedding(11, 8),
            nn.Linear(8, 12),
            nn.Linear(12, 8),
            nn.Linear(8, 11, False),
        )
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        return self.head(x + self.down(F.silu(self.up(x))))


class RMSNorm(nn.Module):
    """As language models write it."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


def gate() -> nn.Module:
    """Squeeze and excitation."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 4, 1), nn.ReLU(), nn.Conv2d(4, 16, 1), nn.Sigmoid())


def option_a(m: Any, x: Tensor) -> Tensor:
    """A shortcut that pads channels with zeros."""
    return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)) + m.wide(x)


def written(m: Any, x: Tensor) -> Tensor:
    """A part is written in place."""
    y = torch.zeros_like(x)
    y[:, :4] = x[:, 4:]
    y[:, 4:] = m.other(x)
    return y


CONSTRUCTS: tuple[Construct, ...] = tuple(
    Construct(*row)
    for row in (
        (
            "residual add",
            conv(lambda m, x: x + m.other(x), other=lambda: nn.Conv2d(8, 8, 3, padding=1)),
            image(3, 6, 6),
            {"hidden": 8},
        ),
        (
            "residual multiplication",
            conv(lambda m, x: x * m.other(x), other=lambda: nn.Conv2d(8, 8, 1)),
            image(3, 6, 6),
            {"hidden": 8},
        ),
        (
            "broadcast of one channel",
            conv(lambda m, x: x * m.other(x), other=lambda: nn.Conv2d(8, 1, 1)),
            image(3, 6, 6),
            {"hidden": 8},
        ),
        ("broadcast mask", conv(lambda m, x: x * (x.mean((2, 3), keepdim=True) > 0)), image(3, 6, 6), {"hidden": 8}),
        (
            "concatenation",
            conv(lambda m, x: torch.cat([m.other(x), x], 1), out=14, other=lambda: nn.Conv2d(8, 6, 1)),
            image(3, 6, 6),
            {"hidden": 8, "other": 6},
        ),
        (
            "concatenation and flatten",
            lambda: Lambda(
                lambda m, x: m.head(torch.cat([m.a(x), m.b(x)], 1).flatten(1)),
                a=nn.Conv2d(3, 4, 1),
                b=nn.Conv2d(3, 6, 1),
                head=nn.Linear(160, 3),
            ),
            image(3, 4, 4),
            {"a": 4, "b": 6},
        ),
        ("the same twice", line(lambda m, x: torch.cat([x, x], -1), out=16), image(5), {"hidden": 8}),
        (
            "split apart",
            conv(lambda m, x: torch.cat([m.other(x[:, :4]), x[:, 4:]], 1), other=lambda: nn.Conv2d(4, 4, 1)),
            image(3, 6, 6),
            {"hidden": 8, "other": 4},
        ),
        (
            "split by sizes",
            line(lambda m, x: torch.cat([x.split([3, 5], -1)[1], x.split([3, 5], -1)[0]], -1)),
            image(5),
            {"hidden": 8},
        ),
        (
            "chunks gated",
            line(lambda m, x: x.chunk(2, -1)[0] * x.chunk(2, -1)[1].sigmoid(), out=4),
            image(5),
            {"hidden": 4},
        ),
        ("unbind", line(lambda m, x: torch.stack(x.view(-1, 2, 4).unbind(1)).sum(0), out=4), image(5), {"hidden": 4}),
        (
            "stack",
            line(lambda m, x: torch.stack([x, m.other(x)], 1).sum(1), other=lambda: nn.Linear(8, 8)),
            image(5),
            {"hidden": 8},
        ),
        (
            "flatten",
            lambda: Lambda(
                lambda m, x: m.head(m.hidden(x).flatten(1)), hidden=nn.Conv2d(3, 8, 1), head=nn.Linear(128, 3)
            ),
            image(3, 4, 4),
            {"hidden": 8},
        ),
        (
            "flatten with channels last",
            lambda: Lambda(
                lambda m, x: m.head(m.hidden(x).permute(0, 2, 3, 1).flatten(1)),
                hidden=nn.Conv2d(3, 8, 1),
                head=nn.Linear(128, 3),
            ),
            image(3, 4, 4),
            {"hidden": 8},
        ),
        (
            "a view with sizes",
            lambda: Lambda(
                lambda m, x: m.head(m.hidden(x).view(-1, 8 * 16)), hidden=nn.Conv2d(3, 8, 1), head=nn.Linear(128, 3)
            ),
            image(3, 4, 4),
            {"hidden": 8},
        ),
        (
            "transposed flatten",
            lambda: Lambda(
                lambda m, x: m.head(m.hidden(x).flatten(2).transpose(1, 2)),
                hidden=nn.Conv2d(3, 8, 1),
                head=nn.Linear(8, 3),
            ),
            image(3, 4, 4),
            {"hidden": 8},
        ),
        (
            "batch and channels joined",
            conv(lambda m, x: F.avg_pool2d(x.reshape(-1, 1, 6, 6), 3, 1, 1).reshape(-1, 8, 6, 6)),
            image(3, 6, 6),
            {"hidden": 8},
        ),
        ("channel shuffle", conv(lambda m, x: F.channel_shuffle(x, 2)), image(3, 6, 6), {"hidden": 8}),
        (
            "channel shuffle by view",
            conv(lambda m, x: x.view(-1, 2, 4, 6, 6).transpose(1, 2).reshape(-1, 8, 6, 6)),
            image(3, 6, 6),
            {"hidden": 4},
        ),
        ("flip", conv(lambda m, x: x.flip(1)), image(3, 6, 6), {"hidden": 8}),
        ("roll", conv(lambda m, x: x.roll(3, 1), wide=16), image(3, 6, 6), {"hidden": 16}),
        ("roll of space", conv(lambda m, x: x.roll((1, 2), (2, 3))), image(3, 6, 6), {"hidden": 8}),
        ("index", conv(lambda m, x: x[:, [3, 1, 2, 0, 5, 4]], out=6), image(3, 6, 6), {"hidden": 8}),
        (
            "index select",
            line(lambda m, x: x.index_select(-1, torch.tensor([7, 6, 5, 4, 3, 2, 1, 0]))),
            image(5),
            {"hidden": 8},
        ),
        ("gather", line(lambda m, x: x.gather(1, torch.arange(8).flip(0).expand(x.shape[0], 8))), image(5), {}),
        ("repeat", line(lambda m, x: x.repeat(1, 2), out=16), image(5), {"hidden": 8}),
        ("repeat interleave", line(lambda m, x: x.repeat_interleave(2, 1), out=16), image(5), {"hidden": 8}),
        ("every second channel", line(lambda m, x: torch.cat([x[:, ::2], x[:, 1::2]], 1)), image(5), {"hidden": 8}),
        ("one channel taken", line(lambda m, x: x * x[:, 3:4]), image(5), {"hidden": 7}),
        ("one channel selected", line(lambda m, x: x + x[:, 3].unsqueeze(1)), image(5), {"hidden": 7}),
        (
            "padded channels",
            lambda: Lambda(
                lambda m, x: m.head(option_a(m, m.hidden(x))),
                hidden=nn.Conv2d(3, 8, 1),
                wide=nn.Conv2d(8, 16, 3, 2, 1),
                head=nn.Conv2d(16, 3, 1),
            ),
            image(3, 6, 6),
            {"hidden": 8, "wide": 8},
        ),
        ("padded space", conv(lambda m, x: F.pad(x, (1, 2, 1, 0), value=0.5)), image(3, 6, 6), {"hidden": 8}),
        ("reflected space", conv(lambda m, x: F.pad(x, (1, 1, 1, 1), mode="reflect")), image(3, 6, 6), {"hidden": 8}),
        (
            "circular padding",
            lambda: nn.Sequential(
                nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular"),
                nn.ReLU(),
                nn.Conv2d(8, 4, 3, padding=1, padding_mode="circular"),
            ),
            image(3, 6, 6),
            {"0": 8},
        ),
        (
            "batch norm",
            lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)),
            image(3, 6, 6),
            {"0": 8},
        ),
        (
            "batch norm without weights",
            lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=False), nn.Conv2d(8, 4, 1)),
            image(3, 6, 6),
            {"0": 8},
        ),
        (
            "batch norm by batch",
            lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False), nn.Conv2d(8, 4, 1)),
            image(3, 6, 6),
            {"0": 8},
        ),
        (
            "batch norm of features",
            lambda: nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)),
            image(5),
            {"0": 8},
        ),
        (
            "instance norm",
            lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8, affine=True), nn.Conv2d(8, 4, 1)),
            image(3, 6, 6),
            {"0": 8},
        ),
        (
            "instance norm with statistics",
            lambda: nn.Sequential(
                nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8, affine=True, track_running_stats=True), nn.Conv2d(8, 4, 1)
            ),
            image(3, 6, 6),
            {"0": 8},
        ),
        (
            "group norm",
            lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8), nn.Conv2d(8, 4, 1)),
            image(3, 6, 6),
            {"0": 4},
        ),
        (
            "group norm of one group",
            lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(1, 8), nn.Conv2d(8, 4, 1)),
            image(3, 6, 6),
            {"0*": 8},
        ),
        (
            "group norm without weights",
            lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8, affine=False), nn.Conv2d(8, 4, 1)),
            image(3, 6, 6),
            {"0": 4},
        ),
        ("layer norm", lambda: nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 4)), image(5), {"0*": 8}),
        ("layer norm without weights", line(lambda m, x: F.layer_norm(x, (8,))), image(5), {"hidden*": 8}),
        (
            "layer norm over an image",
            lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.LayerNorm([8, 4, 4]), nn.Conv2d(8, 4, 1)),
            image(3, 4, 4),
            {"0*": 8},
        ),
        ("rms norm", lambda: nn.Sequential(nn.Linear(5, 8), nn.RMSNorm(8), nn.Linear(8, 4)), image(5), {"0*": 8}),
        ("rms norm by hand", lambda: nn.Sequential(nn.Linear(5, 8), RMSNorm(8), nn.Linear(8, 4)), image(5), {"0*": 8}),
        (
            "local response norm",
            lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.LocalResponseNorm(3), nn.Conv2d(8, 4, 1)),
            image(3, 4, 4),
            {},
        ),
        ("normalize", line(lambda m, x: F.normalize(x, dim=-1)), image(5), {"hidden*": 8}),
        ("softmax over channels", line(lambda m, x: x.softmax(-1)), image(5), {"hidden*": 8}),
        ("mean over channels", conv(lambda m, x: x * x.mean(1, keepdim=True)), image(3, 4, 4), {"hidden*": 8}),
        (
            "maximum over channels",
            conv(lambda m, x: x * x.amax(1, keepdim=True).sigmoid()),
            image(3, 4, 4),
            {"hidden*": 8},
        ),
        ("argmax over channels", line(lambda m, x: x * x.argmax(-1, keepdim=True)), image(5), {}),
        (
            "channel attention by convolution",
            conv(
                lambda m, x: x * m.other(x.mean((2, 3))[:, None]).sigmoid().transpose(1, 2)[..., None],
                other=lambda: nn.Conv1d(1, 1, 3, padding=1),
            ),
            image(3, 4, 4),
            {},
        ),
        (
            "squeeze and excitation",
            lambda: Lambda(
                lambda m, x: m.head(m.hidden(x) * m.gate(m.hidden(x))),
                hidden=nn.Conv2d(3, 16, 1),
                gate=gate(),
                head=nn.Conv2d(16, 3, 1),
            ),
            image(3, 4, 4),
            {"hidden": 16, "gate.1": 4},
        ),
        (
            "depthwise",
            conv(lambda m, x: m.other(x), other=lambda: nn.Conv2d(8, 8, 3, groups=8)),
            image(3, 6, 6),
            {"hidden": 8},
        ),
        (
            "depthwise with multiplier",
            conv(lambda m, x: m.other(x), out=16, other=lambda: nn.Conv2d(8, 16, 3, groups=8)),
            image(3, 6, 6),
            {"hidden": 8},
        ),
        (
            "one channel is not depthwise",
            conv(lambda m, x: m.other(x), wide=1, out=4, other=lambda: nn.Conv2d(1, 4, 3)),
            image(3, 6, 6),
            {"other": 4},
        ),
        (
            "grouped convolution",
            conv(lambda m, x: m.other(x), out=12, other=lambda: nn.Conv2d(8, 12, 3, groups=2)),
            image(3, 6, 6),
            {"hidden": 4, "other": 6},
        ),
        (
            "transposed convolution",
            conv(lambda m, x: m.other(x), out=6, other=lambda: nn.ConvTranspose2d(8, 6, 2, 2)),
            image(3, 4, 4),
            {"hidden": 8, "other": 6},
        ),
        (
            "transposed grouped convolution",
            conv(lambda m, x: m.other(x), out=6, other=lambda: nn.ConvTranspose2d(8, 6, 2, 2, groups=2)),
            image(3, 4, 4),
            {"hidden": 4, "other": 3},
        ),
        (
            "transposed depthwise convolution",
            conv(lambda m, x: m.other(x), out=16, other=lambda: nn.ConvTranspose2d(8, 16, 2, 2, groups=8)),
            image(3, 4, 4),
            {"hidden": 8},
        ),
        (
            "one dimension",
            lambda: nn.Sequential(
                nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), nn.GELU(), nn.ConvTranspose1d(8, 6, 2), nn.Conv1d(6, 2, 1)
            ),
            image(3, 9),
            {"0": 8, "3": 6},
        ),
        (
            "three dimensions",
            lambda: nn.Sequential(
                nn.Conv3d(3, 8, 3), nn.BatchNorm3d(8), nn.MaxPool3d(2), nn.Flatten(), nn.Linear(8, 2)
            ),
            image(3, 4, 4, 4),
            {"0": 8},
        ),
        (
            "flattened sequence",
            lambda: nn.Sequential(nn.Conv1d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(56, 2)),
            image(3, 9),
            {"0": 8},
        ),
        ("pixel shuffle", conv(lambda m, x: F.pixel_shuffle(x, 2), out=2), image(3, 4, 4), {"hidden": 2}),
        ("pixel unshuffle", conv(lambda m, x: F.pixel_unshuffle(x, 2), out=32), image(3, 4, 4), {"hidden": 8}),
        (
            "interpolation",
            conv(lambda m, x: F.interpolate(x, scale_factor=2, mode="bilinear")),
            image(3, 4, 4),
            {"hidden": 8},
        ),
        (
            "unfold",
            lambda: Lambda(
                lambda m, x: m.head(F.unfold(m.hidden(x), 2).transpose(1, 2)),
                hidden=nn.Conv2d(3, 8, 1),
                head=nn.Linear(32, 3),
            ),
            image(3, 4, 4),
            {"hidden": 8},
        ),
        (
            "activations",
            lambda: nn.Sequential(
                nn.Conv2d(3, 8, 1),
                nn.PReLU(8),
                nn.Hardswish(),
                nn.Conv2d(8, 8, 1),
                nn.Softplus(),
                nn.Conv2d(8, 8, 1),
                nn.Mish(),
                nn.ELU(),
                nn.LeakyReLU(),
                nn.Conv2d(8, 2, 1),
            ),
            image(3, 4, 4),
            {"0": 8, "3": 8, "5": 8},
        ),
        ("glu", line(lambda m, x: F.glu(x), wide=16, out=8), image(5), {"hidden": 8}),
        ("glu of an image", conv(lambda m, x: F.glu(x, 1), wide=16, out=8), image(3, 4, 4), {"hidden": 8}),
        (
            "swiglu",
            line(
                lambda m, x: m.down(F.silu(m.gate(x)) * m.up(x)),
                gate=lambda: nn.Linear(8, 12),
                up=lambda: nn.Linear(8, 12),
                down=lambda: nn.Linear(12, 8),
            ),
            image(5),
            {"hidden": 8, "gate": 12, "down": 8},
        ),
        (
            "swiglu fused",
            line(
                lambda m, x: m.down(F.silu(m.up(x).chunk(2, -1)[0]) * m.up(x).chunk(2, -1)[1]),
                up=lambda: nn.Linear(8, 24),
                down=lambda: nn.Linear(12, 8),
            ),
            image(5),
            {"hidden": 8, "up": 12, "down": 8},
        ),
        ("attention", Attention, image(4, 5), {"hidden": 12, "q": 4}),
        ("attention that would divide itself anew", lambda: Attention(infer=True), image(4, 5), {"hidden": 12, "q": 4}),
        ("attention fused", lambda: Attention(fused=True), image(4, 5), {"hidden": 12, "qkv": 4}),
        ("attention by hand", lambda: Attention(how="hand"), image(4, 5), {"hidden": 12, "q": 4}),
        ("attention by einsum", lambda: Attention(how="einsum"), image(4, 5), {"hidden": 12, "q": 4}),
        ("grouped queries", lambda: Attention(kv=2), image(4, 5), {"hidden": 12, "q": 2}),
        ("grouped queries in the op", lambda: Attention(kv=2, how="gqa"), image(4, 5), {"hidden": 12, "q": 2}),
        ("grouped queries by hand", lambda: Attention(kv=2, how="hand"), image(4, 5), {"hidden": 12, "q": 2}),
        ("one key head", lambda: Attention(kv=1), image(4, 5), {"hidden": 12}),
        ("rotary attention", lambda: Attention(rope=True), image(4, 5), {"hidden": 12, "q": 4}),
        (
            "rotary grouped attention",
            lambda: Attention(kv=2, rope=True, how="hand"),
            image(4, 5),
            {"hidden": 12, "q": 2},
        ),
        (
            "multihead attention",
            lambda: Module(nn.MultiheadAttention(8, 4, batch_first=True), lambda b, x: b(x, x, x)[0]),
            image(4, 5),
            {"hidden": 8, "body": 4, "body.out_proj": 8},
        ),
        (
            "multihead attention without weights",
            lambda: Module(
                nn.MultiheadAttention(8, 4, batch_first=True), lambda b, x: b(x, x, x, need_weights=False)[0]
            ),
            image(4, 5),
            {"hidden": 8, "body": 4, "body.out_proj": 8},
        ),
        (
            "transformer layer",
            lambda: Module(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), lambda b, x: b(x)),
            image(4, 5),
            {"hidden*": 8, "body.self_attn": 2, "body.linear1": 16},
        ),
        ("many queries on one key head", MultiQuery, image(4, 8), {"q": 4}),
        ("a window of the batch of heads", lambda: MultiQuery(window=True), image(4, 8), {"q": 4}),
        (
            "patches with padding",
            conv(
                lambda m, x: m.body(F.unfold(x, 3, padding=1).transpose(1, 2)).transpose(1, 2).unflatten(2, (6, 6)),
                body=lambda: nn.Linear(72, 8),
            ),
            image(3, 6, 6),
            {"hidden": 8, "body": 8},
        ),
        (
            "patches added up again",
            conv(lambda m, x: F.fold(F.unfold(x, 2, stride=2) * 2, 6, 2, stride=2)),
            image(3, 6, 6),
            {"hidden": 8},
        ),
        (
            "blocks of inputs with one output each",
            conv(lambda m, x: m.body(x), out=4, body=lambda: nn.Conv2d(8, 4, 3, padding=1, groups=4)),
            image(3, 6, 6),
            {"hidden": 4},
        ),
        (
            "transposed blocks with one output each",
            conv(lambda m, x: m.body(x), out=4, body=lambda: nn.ConvTranspose2d(8, 4, 3, padding=1, groups=4)),
            image(3, 6, 6),
            {"hidden": 4},
        ),
        (
            "a concatenation with one fixed channel, gated",
            conv(
                lambda m, x: (lambda y: y * m.gate(y).sigmoid())(torch.cat([x[:, :1], m.other(x)], 1)),
                out=7,
                other=lambda: nn.Conv2d(8, 6, 1),
                gate=lambda: nn.Conv2d(7, 7, 1),
            ),
            image(3, 6, 6),
            {"hidden": 7, "other": 6},
        ),
        (
            "the batch by its length",
            lambda: Module(nn.Linear(8, 8), lambda b, x: b(x).view(len(x), -1, 8).reshape(len(x), 16), out=16),
            image(2, 5),
            {"hidden": 8, "body": 8},
        ),
        (
            "lstm",
            lambda: Module(nn.LSTM(8, 6, batch_first=True), lambda b, x: b(x)[0], out=6),
            image(4, 5),
            {"hidden": 8, "body": 6},
        ),
        (
            "lstm of two layers",
            lambda: Module(nn.LSTM(8, 6, 2, batch_first=True), lambda b, x: b(x)[0], out=6),
            image(4, 5),
            {"hidden": 8, "body": 6},
        ),
        (
            "lstm in both directions",
            lambda: Module(nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True), lambda b, x: b(x)[0], out=12),
            image(4, 5),
            {"hidden": 8, "body": 6},
        ),
        (
            "lstm's last state",
            lambda: Module(nn.LSTM(8, 6, batch_first=True), lambda b, x: b(x)[1][0][-1], out=6),
            image(4, 5),
            {"hidden": 8, "body": 6},
        ),
        (
            "lstm from a state",
            lambda: Module(
                nn.LSTM(8, 6, batch_first=True),
                lambda b, x: b(x, (x.new_zeros(1, x.shape[0], 6), x.new_ones(1, x.shape[0], 6)))[0],
                out=6,
            ),
            image(4, 5),
            {"hidden": 8, "body": 6},
        ),
        (
            "gru",
            lambda: Module(nn.GRU(8, 6, batch_first=True), lambda b, x: b(x)[0], out=6),
            image(4, 5),
            {"hidden": 8, "body": 6},
        ),
        (
            "gru in both directions",
            lambda: Module(nn.GRU(8, 6, batch_first=True, bidirectional=True), lambda b, x: b(x)[0], out=12),
            image(4, 5),
            {"hidden": 8, "body": 6},
        ),
        (
            "plain recurrence",
            lambda: Module(nn.RNN(8, 6, batch_first=True), lambda b, x: b(x)[0], out=6),
            image(4, 5),
            {"hidden": 8, "body": 6},
        ),
        ("tied head", Tied, tokens(), {"embed": 8, "up": 12}),
        (
            "tied autoencoder",
            lambda: Lambda(lambda m, x: F.linear(m.hidden(x).relu(), m.hidden.weight.t()), hidden=nn.Linear(5, 8)),
            image(5),
            {"hidden": 8},
        ),
        (
            "called twice",
            line(lambda m, x: m.other(m.other(x).relu()), other=lambda: nn.Linear(8, 8)),
            image(5),
            {"hidden": 8},
        ),
        (
            "weight norm",
            lambda: nn.Sequential(
                nn.Linear(5, 8),
                nn.ReLU(),
                nn.utils.parametrizations.weight_norm(nn.Linear(8, 6)),
                nn.ReLU(),
                nn.Linear(6, 3),
            ),
            image(5),
            {"0*": 8, "2": 6},
        ),
        (
            "spectral norm",
            lambda: nn.Sequential(
                nn.Linear(5, 8),
                nn.ReLU(),
                nn.utils.parametrizations.spectral_norm(nn.Linear(8, 6)),
                nn.ReLU(),
                nn.Linear(6, 3),
            ),
            image(5),
            {"0*": 8, "2*": 6},
        ),
        (
            "orthogonal",
            lambda: nn.Sequential(
                nn.Linear(5, 8),
                nn.ReLU(),
                nn.utils.parametrizations.orthogonal(nn.Linear(8, 8)),
                nn.ReLU(),
                nn.Linear(8, 3),
            ),
            image(5),
            {"2": 8},
        ),
        (
            "functional weights",
            lambda: Lambda(
                lambda m, x: F.linear(F.conv2d(x, m.a.weight, m.a.bias).relu().mean((2, 3)), m.b.weight),
                a=nn.Conv2d(3, 8, 1),
                b=nn.Linear(8, 3),
            ),
            image(3, 4, 4),
            {"a": 8},
        ),
        ("bare parameters", lambda: Bare(), image(5), {"first": 8, "second": 6}),
        ("einsum of three", lambda: Three(), image(4, 5), {"first": 2, "first#2": 4}),
        ("type of another", line(lambda m, x: x * x.mean(0, keepdim=True).type_as(x)), image(5), {"hidden": 8}),
        ("einsum of a parameter", lambda: Einsum(), image(4, 5), {"first": 2, "first#2": 4}),
        ("constants along channels", lambda: Constant(), image(5), {"hidden": 8}),
        ("made tensors", line(lambda m, x: x * torch.arange(8.0) + torch.ones(8)), image(5), {"hidden": 8}),
        (
            "positions",
            lambda: Lambda(
                lambda m, x: m.head(m.hidden(x) + m.places(torch.arange(4))),
                hidden=nn.Linear(5, 8),
                places=nn.Embedding(4, 8),
                head=nn.Linear(8, 3),
            ),
            image(4, 5),
            {"hidden": 8},
        ),
        (
            "written in place",
            conv(written, other=lambda: nn.Conv2d(8, 4, 1)),
            image(3, 4, 4),
            {"hidden": 8, "other": 4},
        ),
        (
            "two inputs by name",
            lambda: Named(),
            lambda batch: {"image": torch.randn(batch, 3, 4, 4), "words": torch.randint(0, 7, (batch, 5))},
            {"look": 8},
        ),
        (
            "a dict in and out",
            lambda: Dict(),
            lambda batch: ({"x": torch.randn(batch, 5), "y": torch.randn(batch, 5)},),
            {"left": 8},
        ),
        (
            "dilated and strided",
            lambda: nn.Sequential(
                nn.Conv2d(3, 8, 3, 2, 2, 2), nn.Conv2d(8, 8, 3, padding="same"), nn.ZeroPad2d(1), nn.Conv2d(8, 2, 1)
            ),
            image(3, 9, 9),
            {"0": 8, "1": 8},
        ),
        (
            "dropout",
            lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.Dropout2d(), nn.Flatten(), nn.Dropout(), nn.Linear(128, 3)),
            image(3, 4, 4),
            {"0": 8},
        ),
        ("without gradient", lambda: Quiet(), image(5), {"hidden": 8}),
        (
            "outer product",
            line(
                lambda m, x: (x[:, :, None] * m.other(x)[:, None, :]).flatten(1), out=24, other=lambda: nn.Linear(8, 3)
            ),
            image(5),
            {"hidden": 8},
        ),
        (
            "correlation of features",
            lambda: Lambda(lambda m, x: m.a(x) @ m.b(x).transpose(1, 2), a=nn.Linear(5, 8), b=nn.Linear(5, 8)),
            image(4, 5),
            {"a": 8},
        ),
    )
)


class Bare(nn.Module):
    """Weights that no layer holds."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Parameter(torch.randn(*s)) for s in ((5, 8), (8, 6), (6, 2)))

    def forward(self, x: Tensor) -> Tensor:
        return ((x @ self.first).relu() @ self.second).tanh() @ self.third


class Einsum(nn.Module):
    """A weight with a dimension for heads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(5, 2, 4)), nn.Parameter(torch.randn(2, 4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bthd,hdo->bto", torch.einsum("bti,ihd->bthd", x, self.first).relu(), self.second)


class Three(Einsum):
    """The second product and what weighs it in one."""

    def forward(self, x: Tensor) -> Tensor:
        heads = torch.einsum("bti,ihd->bthd", x, self.first).relu()
        return torch.einsum("bts,bshd,hdo->bto", torch.ones(len(x), 4, 4), heads, self.second)


class Constant(nn.Module):
    """Buffers along channels."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
        self.register_buffer("scale", torch.rand(8))
        self.register_buffer("shift", torch.rand(1, 8), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(x) * self.scale + self.shift)


class Named(nn.Module):
    """An image and words."""

    def __init__(self) -> None:
        super().__init__()
        self.look, self.read, self.head = nn.Conv2d(3, 8, 1), nn.Embedding(7, 8), nn.Linear(8, 3)

    def forward(self, words: Tensor, image: Tensor) -> Tensor:
        return self.head(self.look(image).mean((2, 3)) + self.read(words).mean(1))


class Dict(nn.Module):
    """A dict of inputs, a dict of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(5, 8), nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, given: dict[str, Tensor]) -> dict[str, Any]:
        both = self.left(given["x"]) + self.right(given["y"])
        return {"out": self.head(both), "twice": (self.head(both.relu()), None)}


class Quiet(nn.Module):
    """A part without gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.hidden(x).relu()
        return self.head(x)
