"""Which layers are pruned one after the other, and which are left alone, with the reason."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from workbench.blocks import WIDEST, Blocks
from workbench.graph.trace import ChannelGraph, Layer
from workbench.manual import layers_like
from workbench.sparsify.layerwise.problem import divisible
from workbench.sparsify.patterns import Pattern
from workbench.sparsify.sites import Site

Like = str | type[nn.Module]  # a name, a pattern of names, or a type of module


def site_of(layer: Layer) -> Site:
    """A layer's weight, turned as a convolution's."""
    return Site(layer.weight, layer.shape)


def chosen(
    graph: ChannelGraph, layers: Sequence[Like], ignore: Sequence[Like], pattern: Pattern
) -> tuple[dict[str, Layer], dict[str, str]]:
    """The layers by their node, and why others that were asked for are left.

    Raises
    ------
    ValueError
        A name means nothing, a shape does not divide, or nothing is found.
    """
    asked = {layer.node for like in layers for layer in layers_like(graph, like)}
    ignored = {layer.node for like in ignore for layer in layers_like(graph, like)}
    found: dict[str, Layer] = {}
    left: dict[str, str] = {}
    for layer in graph.layers:
        if layer.node in asked - ignored:
            why = _why_not(graph, layer)
            if why:
                left[layer.name] = why
            else:
                divisible(pattern, site_of(layer))
                found[layer.node] = layer
    if not found:
        reasons = ", ".join(f"{name}: {why}" for name, why in left.items()) or "all are to be ignored"
        raise ValueError(f"no layer can be pruned ({reasons}); name others in layers=")
    return found, left


def _why_not(graph: ChannelGraph, layer: Layer) -> str:
    if _uses(graph, layer) > 1:
        return "its weight is used more than once"
    if layer.weight not in graph.parameters:
        return "its weight is no parameter"
    if Blocks.of(layer, graph) is not None or layer.shape[1:].numel() > WIDEST:
        return f"it has {layer.shape[1:].numel():,} columns, more than {WIDEST:,}"
    return ""


def _uses(graph: ChannelGraph, layer: Layer) -> int:
    """How many operations read a layer's weight, under whichever of its names."""
    program = graph.program
    place = program.tensors[layer.weight].data_ptr()
    names = {holder for holder, name in program.state.items() if program.tensors[name].data_ptr() == place}
    return sum(any(used.name in names for used in node.all_input_nodes) for node in program.nodes)
