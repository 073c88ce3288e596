"""Layers too wide for the second moments of all their columns, read channel by channel.

A convolution with 1,024 channels and a kernel of 64 has 65,536 columns, whose moments take 34 GB and more rows than
anybody has. The moments of its channels, wherever the kernel touches them, take a megabyte. They give each lost channel
as a combination of those that stay, which the weights then take up: column j of channel c, ``W[:, c, j]``, goes to the
kept channels k as ``sum_c W[:, c, j] A[c, k]`` (an interpolation of channels, as Chee et al. 2022 prune by it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.graph.trace import ChannelGraph, Layer

WIDEST = 8192  # columns of a layer whose moments are gathered as they are: half a gigabyte


@dataclass(frozen=True)
class Blocks:
    """``columns[c]`` are the columns of a layer's flattened weight that multiply channel c, ``[channels, width]``.

    ``scale`` is the norm of each channel's weights, ``[channels]``: an error in a channel counts as much as it does in
    the output, where errors of different channels and places are independent.
    """

    columns: Tensor
    scale: Tensor
    linear: bool
    input: str  # the node whose value the layer reads

    @property
    def target(self) -> str:
        """The node whose value is fitted: what the layer reads itself."""
        return self.input

    @classmethod
    def of(cls, layer: Layer, graph: ChannelGraph) -> Blocks | None:
        """None where the layer is not too wide, or its columns are no channels at several places."""
        columns = _blocks(layer, graph)
        if columns is None:
            return None
        weight = layer.turned(graph.program.tensors[layer.weight]).detach().double().cpu().flatten(1)
        scale = weight.square().sum(0)[columns].sum(1).sqrt()
        return cls(columns, scale, len(layer.shape) == 2, layer.source)

    def positions(self, values: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """At most ``count`` places of a sample, drawn without repeats, in order."""
        total = self.columns.shape[1] if self.linear else values[0, 0].numel()
        return torch.randperm(total, generator=generator)[:count].sort().values

    def rows(self, inputs: Tensor, positions: Tensor, columns: Sequence[int] | None = None) -> Tensor:
        """``[1, samples * positions, channels]``; of some channels alone."""
        channels = torch.arange(len(self.columns)) if columns is None else torch.tensor(columns)
        if self.linear:
            values = inputs.reshape(-1, inputs.shape[-1])[:, self.columns[channels][:, positions].to(inputs.device)]
        else:
            values = inputs.flatten(2)[:, channels.to(inputs.device)[:, None], positions.to(inputs.device)]
        return values.movedim(1, 2).reshape(1, -1, len(channels))

    def targets(self, values: Tensor, positions: Tensor) -> Tensor:
        """The same of the original, weighed by ``scale``."""
        rows = self.rows(values, positions)
        return rows * self.scale.to(rows)

    def taken_up(self, weight: Tensor, bias: Tensor, mixing: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and bias of the layer that reads ``mixing @ x + offset`` in place of each channel times its scale."""
        share = self.scale.masked_fill(self.scale == 0, 1)
        blocks = weight.detach().double().cpu().flatten(1)[:, self.columns]  # [out, channels, width]
        new = torch.einsum("ocj,ck->okj", blocks, mixing.double() / share[:, None])
        changed = torch.zeros_like(weight.detach().double().cpu().flatten(1))
        changed[:, self.columns.flatten()] = new.flatten(1)
        constant = torch.einsum("ocj,c->o", blocks, offset.double() / share)
        return changed.view(weight.shape).to(weight), bias + constant.to(bias)


def _blocks(layer: Layer, graph: ChannelGraph) -> Tensor | None:
    size = layer.shape[1:].numel()
    if size <= WIDEST or layer.groups > 1:
        return None
    if len(layer.shape) > 2:
        return torch.arange(size).view(layer.shape[1], -1)
    members = [m for group in graph.exact for m in group.members if m.tensor == layer.weight and m.role == "in"]
    if len(members) != 1 or len({len(unit) for unit in members[0].indices}) != 1:
        return None
    columns = torch.tensor(members[0].indices)
    return columns if columns.shape[1] > 1 and columns.numel() == size else None
