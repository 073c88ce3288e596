"""Gathering: a layer reads some of its input channels by index, and who makes them keeps all.

For channels that cannot leave (a residual stream behind a LayerNorm, what the model returns): the layer's own input
channels are a group of their own, and an ``index_select`` in front of the layer picks those that stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from workbench.graph.atoms import Reason
from workbench.graph.groups import ChannelGroup, Frozen, Member

if TYPE_CHECKING:
    from workbench.graph.trace import ChannelGraph, Layer


class Gathered(nn.Module):
    """A layer that reads the input channels at ``places``, int64 ``[in]``."""

    dim: int  # of the channels
    places: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.picked(x))

    def picked(self, x: Tensor) -> Tensor:
        """What the layer reads of its input."""
        return x.index_select(self.dim, self.places)


class GatheredLinear(Gathered, nn.Linear):
    """A linear layer on some of its input features."""

    dim = -1


class GatheredConv1d(Gathered, nn.Conv1d):
    """A convolution of some of its input channels."""

    dim = -2


class GatheredConv2d(Gathered, nn.Conv2d):
    """A convolution of some of its input channels."""

    dim = -3


class GatheredConv3d(Gathered, nn.Conv3d):
    """A convolution of some of its input channels."""

    dim = -4


GATHERED: dict[type[nn.Module], type[Gathered]] = {
    nn.Linear: GatheredLinear, nn.Conv1d: GatheredConv1d, nn.Conv2d: GatheredConv2d, nn.Conv3d: GatheredConv3d,
}  # fmt: skip


def gather_(module: nn.Module, kept: Sequence[int]) -> None:
    """Make a layer whose weight was cut read these of the channels it is given.

    Raises
    ------
    KeyError
        It is no plain linear layer or convolution.
    """
    if isinstance(module, Gathered):  # again: of what it reads already
        module.places = module.places[torch.tensor(kept, device=module.places.device)]
        return
    weight: Any = module.weight
    module.__class__ = GATHERED[type(module)]
    module.register_buffer("places", torch.tensor(kept, device=weight.device))


def with_gathers(graph: ChannelGraph, wanted: Sequence[str] | bool) -> ChannelGraph:
    """The graph in which some layers gather; groups that they read stay whole.

    Raises
    ------
    ValueError
        There is no such layer, or it cannot gather.
    """
    layers = _fixed_inputs(graph) if wanted is True else [_named(graph, name) for name in wanted or ()]
    if not layers:
        return graph
    weights = {layer.weight: layer.name for layer in layers}
    groups, frozen = [], list(graph.frozen)
    for group in graph.groups:
        readers = [weights[m.tensor] for m in group.members if m.role == "in" and m.tensor in weights]
        if readers:
            reason = Reason("gather", readers[0], "it picks its inputs, and they stay", "leave it out of gather=")
            frozen += [
                Frozen(m.tensor, m.dim, sum(map(len, m.indices)), reason) for m in group.members if m.role == "out"
            ]
        else:
            groups.append(group)
    return replace(graph, groups=(*groups, *map(_group, layers)), frozen=tuple(frozen))


def _group(layer: Layer) -> ChannelGroup:
    size = layer.shape[1]
    member = Member(layer.weight, 1, tuple((index,) for index in range(size)), "in", gather=True)
    return ChannelGroup(f"{layer.name}.inputs", size, (member,))


def _fixed_inputs(graph: ChannelGraph) -> list[Layer]:
    """The layers that could gather what other layers make and what cannot leave exactly."""
    atoms = graph.provenance.atoms
    classes = atoms.classes()
    made = np.zeros(classes.max(initial=-1) + 1, bool)
    for some in atoms.made:
        made[classes[some]] = True
    shrink = {member.tensor for group in graph.exact for member in group.members if member.role == "in"}
    return [
        layer
        for layer in graph.layers
        if layer.weight not in shrink
        and not _obstacle(graph, layer)
        and made[classes[graph.provenance.owned[layer.weight][1].long().numpy()]].any()
    ]


def _named(graph: ChannelGraph, name: str) -> Layer:
    for layer in graph.layers:
        if layer.name == name:
            obstacle = _obstacle(graph, layer)
            if obstacle:
                raise ValueError(f"{name} cannot gather its inputs: {obstacle}; leave it out of gather=")
            return layer
    raise ValueError(f"there is no layer {name!r} to gather; the layers are {', '.join(x.name for x in graph.layers)}")


def _obstacle(graph: ChannelGraph, layer: Layer) -> str:
    """Why a layer cannot gather; empty where it can."""
    if layer.groups > 1:
        return "it has groups"
    if layer.transposed:
        return "it is a transposed convolution"
    if layer.product:
        return "its weight is no module's own kind"
    if layer.shape[1] < 2:
        return "it has a single one"
    if not graph.runs_once(layer):
        return "its weight is used elsewhere, too"
    return ""
