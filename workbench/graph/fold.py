"""What constant channels contribute moves into the biases of the layers that read them, before they leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from workbench.graph.call import bind
from workbench.graph.known import Known
from workbench.graph.masked import survivors

if TYPE_CHECKING:
    from workbench.graph.record import Cut
    from workbench.graph.trace import ChannelGraph, Layer

ROUNDING = 1e-5  # relative, within which a contribution counts as the same everywhere


@torch.no_grad()
def fold(
    graph: ChannelGraph, tensors: Mapping[str, Tensor], cuts: Sequence[Cut]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The biases that take up what the removed constant channels contributed, and what no bias can.

    A contribution that differs from place to place (zeros are padded around a constant map) has no bias that equals it.
    """
    if not any(_may_be_constant(graph, tensors[cut.tensor], cut) for cut in cuts):
        return {}, ()
    read = {cut.tensor: cut for cut in cuts if cut.role == "in"}
    layers = {layer.node: layer for layer in graph.layers if layer.weight in read}
    stays = survivors(graph.provenance, cuts)
    known = Known(graph.program, graph.program.start(graph.sample(2), tensors))
    changed: dict[str, Tensor] = {}
    lost: list[str] = []
    for node in graph.program.nodes:
        layer = layers.get(node.name)
        if layer is not None:
            cut, rank = read[layer.weight], known.values[layer.source].ndim
            kept = torch.tensor(cut.kept) if cut.gather else stays.of(layer.source).get(rank + layer.channel_dim)
            found = None if kept is None else _contribution(layer, node, known, kept)
            if found is not None:
                why = _obstacle(graph, layer, found)
                if why:
                    lost.append(f"{layer.name}: {why}")
                else:
                    changed |= _taken_up(layer, tensors, found[:, 0])
        known.follow(node)
    return changed, tuple(lost)


def _may_be_constant(graph: ChannelGraph, tensor: Tensor, cut: Cut) -> bool:
    """Whether what a cut removes may be constant: channels come out of a scale, or a row of weights, that is 0."""
    if cut.role == "in":
        return cut.gather  # then the scale is no part of the group
    gone = tensor.index_select(cut.dim, torch.tensor(cut.removed, device=tensor.device)).movedim(cut.dim, 0)
    return bool((gone.reshape(len(gone), -1) == 0).all(1).any()) and not _is_offset(graph, cut.tensor)


def _is_offset(graph: ChannelGraph, name: str) -> bool:
    """Whether a tensor is only added: many are 0, and nothing follows from that."""
    places = {place for place, tensor in graph.program.state.items() if tensor == name}
    uses = [
        argument
        for node in graph.program.nodes
        if any(used.name in places for used in node.all_input_nodes)
        for argument, value in bind(node, node.args, node.kwargs).items()
        if isinstance(value, Node) and value.name in places
    ]
    return all(argument in ("bias", "running_mean") for argument in uses)


def _contribution(layer: Layer, node: Node, known: Known, kept: Tensor) -> Tensor | None:
    """What the constant channels among those that leave add to a layer's outputs, ``[out, places]``; None for none."""
    source = known.values[layer.source]
    gone = known.constant(layer.source, source.ndim + layer.channel_dim)
    gone[kept] = False
    if not gone.any():
        return None
    arguments = bind(node, node.args, node.kwargs) | {"bias": None}
    values: dict[str, Any] = map_arg(arguments, lambda used: known.values[used.name])
    constants = source * gone.to(source).view(-1, *[1] * (-layer.channel_dim - 1))
    outputs: Tensor = node.target(**{**values, "input": constants})  # type: ignore[operator]  # targets are callables
    found = outputs.movedim(layer.channel_dim, 0).flatten(1)
    return found if found.any() else None


def _obstacle(graph: ChannelGraph, layer: Layer, contribution: Tensor) -> str:
    """Why no bias can take up a contribution; empty where one can."""
    spread = contribution.amax(1) - contribution.amin(1)
    if (spread > ROUNDING * contribution.abs().max()).any():
        return "constant channels add something else at the border, where zeros are padded, or from place to place"
    if not graph.runs_once(layer):
        return "constant channels are read by a weight that is used more than once"
    return "" if layer.bias or layer.mean else "constant channels would need a bias, and it has none"


def _taken_up(layer: Layer, tensors: Mapping[str, Tensor], shift: Tensor) -> dict[str, Tensor]:
    if layer.bias:
        return {layer.bias: tensors[layer.bias] + shift}
    assert layer.mean is not None
    return {layer.mean: tensors[layer.mean] - shift}
