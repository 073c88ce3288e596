"""Signals of units: how strong what is read of them is, and how the loss answers to a gate on them.

A gate ``m_u`` multiplies everything of unit u that a layer reads; at 1, ``dL/dm_u`` is the sum of activation times
gradient over the unit's channels and positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from workbench.graph.groups import ChannelGroup
from workbench.graph.inputs import Inputs
from workbench.graph.trace import ChannelGraph, Layer

Loss = Callable[[Any, Inputs], Tensor]  # of an output and the inputs it belongs to, summed over samples
PIECE = 32  # samples at a time: the whole network's activations are held for the gradients


@dataclass
class UnitSignals:
    """Sums over the calibration data of what one layer reads of a group's units, float64 ``[units]``.

    ``squares`` of the activations, ``active`` counts those that are not zero, of ``elements`` a unit; ``fisher`` sums
    the squared gate gradients of ``samples``, ``taylor`` those of ``batches``, each summed over its samples before it
    is squared.
    """

    squares: Tensor
    active: Tensor
    elements: Tensor
    fisher: Tensor
    taylor: Tensor
    samples: int = 0
    batches: int = 0

    @classmethod
    def empty(cls, units: int) -> UnitSignals:
        """Nothing seen."""
        squares, active, elements, fisher, taylor = torch.zeros(5, units, dtype=torch.float64)
        return cls(squares, active, elements, fisher, taylor)

    def add(self, channels: Channels, value: Tensor, gradient: Tensor | None) -> None:
        """Gather what a layer reads of a batch, and its gradient."""
        value = value.detach()
        self.squares += channels.summed(value.square()).sum(0)
        self.active += channels.summed(value.ne(0).to(value)).sum(0)
        self.elements += channels.summed(torch.ones_like(value)).sum(0)
        self.samples += len(value)
        self.batches += 1
        if gradient is not None:
            gates = channels.summed(value * gradient)
            self.fisher += gates.square().sum(0)
            self.taylor += gates.sum(0).square()


@dataclass(frozen=True)
class Channels:
    """Which channels of what a layer reads belong to which unit of a group; ``owner`` is ``[channels]``."""

    owner: Tensor
    units: int
    dim: int  # of the channels, from the last

    @classmethod
    def of(cls, group: ChannelGroup, layer: Layer) -> Channels:
        """A grouped convolution reads channel i of every block with column i of its weight."""
        member = next(m for m in group.members if m.tensor == layer.weight and m.role == "in")
        width = layer.shape[1]
        owner = torch.full((width,), group.units)
        for unit, indices in enumerate(member.indices):
            owner[list(indices)] = unit
        return cls(owner.repeat(layer.groups), group.units, layer.channel_dim)

    def summed(self, value: Tensor) -> Tensor:
        """``[samples, units]`` sums over each unit's channels and all positions."""
        by_channel = value.movedim(self.dim, 1).double().flatten(2).sum(2) if value.ndim > 2 else value.double()
        sums = torch.zeros(len(value), self.units + 1, dtype=torch.float64, device=value.device)
        return sums.index_add_(1, self.owner.to(value.device), by_channel)[:, :-1].cpu()


Signals = Mapping[tuple[str, str], UnitSignals]  # by group and layer


def gather_signals(
    graph: ChannelGraph, batches: Any, *, gradients: bool, loss: Loss | None = None, seed: int = 0
) -> Signals:
    """One pass over the calibration data; ``loss`` is by default cross-entropy against labels drawn from the output.

    With labels drawn from what the model itself says, the mean squared gradient is the Fisher information.
    """
    generator = torch.Generator().manual_seed(seed)
    loss = loss or (lambda output, _inputs: drawn_loss(output, generator))
    places = [
        (group.name, layer, Channels.of(group, layer)) for group in graph.exact for layer in graph.consumers[group.name]
    ]
    sources = {layer.source for _, layer, _ in places}
    found: dict[tuple[str, str], UnitSignals] = {}
    for inputs in pieces(graph, batches):
        with torch.set_grad_enabled(gradients):
            values = run_watched(graph, inputs, sources, loss if gradients else None)
        for name, layer, channels in places:
            signals = found.setdefault((name, layer.name), UnitSignals.empty(channels.units))
            signals.add(channels, values[layer.source], values[layer.source].grad if gradients else None)
    return found


def run_watched(graph: ChannelGraph, inputs: Inputs, nodes: set[str], loss: Loss | None) -> dict[str, Tensor]:
    """The values of some nodes in a run of the model; with a loss, its gradients are in their ``grad``."""
    program, seen = graph.program, {}
    values = program.start(inputs)
    for node in program.nodes:
        program.run([node], values)
        if node.name in nodes:
            value = values[node.name]
            if loss is not None:
                value.retain_grad() if value.requires_grad else value.requires_grad_(True)
            seen[node.name] = value
        program.forget(node, values)
    if loss is not None:
        loss(program.output(values), inputs).backward()
    return seen


def pieces(graph: ChannelGraph, batches: Iterable[Inputs]) -> Iterator[Inputs]:
    """Few samples at a time, where the forward lets their number be chosen."""
    for inputs in batches:
        if inputs.batch is None or not graph.program.any_batch:
            yield inputs
            continue
        for places in torch.arange(inputs.batch).split(PIECE):
            yield inputs.map(lambda tensor, places=places: tensor[places.to(tensor.device)])


def drawn_loss(output: Any, generator: torch.Generator) -> Tensor:
    """Minus the log-likelihood of what is drawn from the model's own output, summed over samples.

    A class a sample, pixel or token where there are several numbers for each, else a number with unit variance. Several
    outputs are independent.
    """
    leaves = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor) and leaf.requires_grad]
    if not leaves:
        raise ValueError("the model returns no floating-point tensor that its weights made; give loss=")
    return torch.stack([_drawn(leaf, generator) for leaf in leaves]).sum()


def _drawn(logits: Tensor, generator: torch.Generator) -> Tensor:
    classes = logits.movedim(1, -1) if logits.ndim > 3 else logits  # [N, C], [N, T, C] or [N, C, H, W]
    if classes.shape[-1] < 2:
        noise = torch.randn(logits.shape, generator=generator).to(logits)
        return 0.5 * (logits - logits.detach() - noise).square().sum()
    flat = classes.flatten(0, -2)
    labels = torch.multinomial(flat.detach().float().softmax(-1).cpu(), 1, generator=generator).flatten()
    losses: Tensor = F.cross_entropy(flat, labels.to(flat.device), reduction="sum")
    return losses
