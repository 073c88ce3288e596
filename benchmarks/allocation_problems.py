"""Allocation problems with the coupling of well-known networks, synthetic curves and exact MACs and parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from workbench.allocate import Choice, Problem, Resource, Term

Width = int | tuple[int]  # a choice's index, or a width that is fixed


@dataclass
class Network:
    """Collects groups and layers. A group's curve is a random power of what is removed, times its weight and luck."""

    options: int
    seed: int
    noise: float = 0.0
    choices: list[Choice] = field(default_factory=list)
    macs: list[Term] = field(default_factory=list)
    params: list[Term] = field(default_factory=list)
    fixed: int = 0

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def group(self, units: int, weight: float = 1.0) -> int:
        count = min(self.options, units)
        options = sorted({max(1, units * (k + 1) // count) for k in range(count)})
        removed = 1 - np.array(options) / units
        losses = weight * self.random.uniform(0.2, 2.2) * removed ** self.random.uniform(1, 3)
        losses *= np.maximum(0, 1 + self.noise * self.random.standard_normal(len(options)))
        self.choices.append(Choice(f"group{len(self.choices)}", tuple(options), tuple(losses.tolist())))
        return len(self.choices) - 1

    def conv(self, before: Width, after: Width, kernel: int, side: int) -> None:
        """A convolution with ``kernel`` weights a pair of channels and side * side output pixels."""
        free = [width for width in (before, after) if isinstance(width, int)]
        factor = kernel
        for width in (before, after):
            factor *= width[0] if isinstance(width, tuple) else 1
        self._add(free, factor, side)

    def depthwise(self, channels: int, kernel: int, side: int) -> None:
        self._add([channels], kernel, side)

    def _add(self, groups: list[int], factor: int, side: int) -> None:
        name, options = f"layer{len(self.macs)}", [self.choices[group].options for group in groups]
        self.macs.append(Term.product(name, groups, options, factor * side * side))
        self.params.append(Term.product(name, groups, options, factor))

    def problem(self, share: float, resources: int = 1) -> Problem:
        """Half the MACs (and parameters, with two resources) at ``share`` 0.5."""
        both = [("macs", self.macs), ("params", self.params)][:resources]
        made = []
        for name, terms in both:
            whole = sum(int(term.costs.max()) for term in terms)
            made.append(Resource(name, tuple(terms), 0, int(share * whole)))
        return Problem(tuple(self.choices), tuple(made))


def chain(net: Network, length: int = 30) -> None:
    before: Width = (3,)
    for _ in range(length):
        after = net.group(int(net.random.integers(32, 512)))
        net.conv(before, after, 9, int(net.random.integers(4, 56)))
        before = after


def tree(net: Network, size: int = 60) -> None:
    groups = [net.group(int(net.random.integers(32, 512)))]
    for _ in range(size - 1):
        parent = groups[int(net.random.integers(len(groups)))]
        groups.append(net.group(int(net.random.integers(32, 512))))
        net.conv(parent, groups[-1], 9, int(net.random.integers(4, 56)))


def resnet50(net: Network, blocks: tuple[int, ...] = (3, 4, 6, 3)) -> None:
    before = net.group(64)
    net.conv((3,), before, 49, 112)
    side, width = 56, 64
    for stage, count in enumerate(blocks):
        stream = net.group(4 * width, 3)
        for block in range(count):
            first, second = net.group(width, 0.5), net.group(width, 0.5)
            source = stream if block else before
            net.conv(source, first, 1, 2 * side if stage and not block else side)
            net.conv(first, second, 9, side)
            net.conv(second, stream, 1, side)
            if not block:
                net.conv(source, stream, 1, side)
        before, side, width = stream, side // 2, width * 2
    net.conv(before, (1000,), 1, 1)


def densenet121(net: Network, blocks: tuple[int, ...] = (6, 12, 24, 16), growth: int = 32) -> None:
    features, side, units = [net.group(64)], 56, 64
    net.conv((3,), features[0], 49, 112)
    for stage, count in enumerate(blocks):
        for _ in range(count):
            bottleneck = net.group(4 * growth, 0.5)
            for feature in features:
                net.conv(feature, bottleneck, 1, side)
            features.append(net.group(growth))
            net.conv(bottleneck, features[-1], 9, side)
            units += growth
        if stage + 1 < len(blocks):
            units //= 2
            transition = net.group(units, 3)
            for feature in features:
                net.conv(feature, transition, 1, side)
            features, side = [transition], side // 2
    for feature in features:
        net.conv(feature, (1000,), 1, 1)


def unet(net: Network, depth: int = 5, base: int = 64, size: int = 256) -> None:
    skips: list[int] = []
    before: Width = (3,)
    for level in range(depth):
        first, second = net.group(base << level), net.group(base << level)
        net.conv(before, first, 9, size >> level)
        net.conv(first, second, 9, size >> level)
        skips.append(second)
        before = second
    for level in reversed(range(depth - 1)):
        up, first, second = (net.group(base << level) for _ in range(3))
        net.conv(before, up, 4, size >> (level + 1))
        net.conv(up, first, 9, size >> level)
        net.conv(skips[level], first, 9, size >> level)
        net.conv(first, second, 9, size >> level)
        before = second
    net.conv(before, (21,), 1, size)


def unet_plus_plus(net: Network, depth: int = 5, base: int = 32, size: int = 256) -> None:
    nodes: dict[tuple[int, int], int] = {}
    for column in range(depth):
        for level in range(depth - column):
            first, second = net.group(base << level), net.group(base << level)
            sources: list[Width] = [nodes[level, earlier] for earlier in range(column)]
            below = (level + 1, column - 1) if column else (level - 1, 0)
            sources.append(nodes.get(below, (3,)))
            for source in sources:
                net.conv(source, first, 9, size >> level)
            net.conv(first, second, 9, size >> level)
            nodes[level, column] = second
    net.conv(nodes[0, depth - 1], (21,), 1, size)


def mobilenetv2(net: Network) -> None:
    stages = [(1, 16, 1, 1, 112), (6, 24, 2, 2, 56), (6, 32, 3, 2, 28), (6, 64, 4, 2, 14), (6, 96, 3, 1, 14)]
    stages += [(6, 160, 3, 2, 7), (6, 320, 1, 1, 7)]
    before, units = net.group(32), 32
    net.conv((3,), before, 9, 112)
    for expansion, channels, repeats, stride, side in stages:
        stream = net.group(channels, 3)
        for repeat in range(repeats):
            source, width = (stream, channels) if repeat else (before, units)
            hidden = source
            if expansion > 1:
                hidden = net.group(width * expansion)
                net.conv(source, hidden, 1, side if repeat else side * stride)
            net.depthwise(hidden, 9, side)
            net.conv(hidden, stream, 1, side)
        before, units = stream, channels
    last = net.group(1280)
    net.conv(before, last, 1, 7)
    net.conv(last, (1000,), 1, 1)


def vit_b16(net: Network, depth: int = 12, width: int = 768) -> None:
    stream = net.group(width, 6)
    net.conv((3,), stream, 256, 14)
    for _ in range(depth):
        heads, hidden = net.group(12), net.group(4 * width)
        net.conv(stream, heads, 4 * 64, 14)
        net.conv(stream, hidden, 2, 14)
    net.conv(stream, (1000,), 1, 1)


def uncoupled(net: Network, groups: int = 1000) -> None:
    for _ in range(groups):
        net.depthwise(net.group(512), int(net.random.integers(1, 500)), 1)


NETWORKS: dict[str, Callable[[Network], None]] = {
    "chain": chain,
    "tree": tree,
    "resnet50": resnet50,
    "resnet152": lambda net: resnet50(net, (3, 8, 36, 3)),
    "mobilenetv2": mobilenetv2,
    "vit_b16": vit_b16,
    "unet": unet,
    "unet++": unet_plus_plus,
    "densenet121": densenet121,
    "uncoupled": uncoupled,
}


def make(
    name: str, options: int = 32, seed: int = 0, share: float = 0.5, resources: int = 1, noise: float = 0.0
) -> Problem:
    """The problem of one network at a share of its cost."""
    network = Network(options, seed, noise)
    NETWORKS[name](network)
    return network.problem(share, resources)
