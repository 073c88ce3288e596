"""The Fisher information of what layers make: which of a layer's output errors matter to the loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from workbench.graph.inputs import Inputs
from workbench.graph.trace import ChannelGraph, Layer
from workbench.signals import Loss, drawn_loss, pieces, run_watched

SAMPLES = 512
WIDEST = 1024  # outputs of a group, beyond which only each one's own is kept

FisherFactors = Mapping[str, Tensor]  # by layer


def gather_fisher(
    graph: ChannelGraph, batches: Iterable[Inputs], *, loss: Loss | None = None, seed: int = 0,
    also: Sequence[Layer] = (),
) -> FisherFactors:  # fmt: skip
    """Second moments of the loss's gradient in each layer's outputs, summed over positions, a mean over samples.

    For each layer that reads a channel group, and those in ``also``, float64 ``[groups, q, q]``, or ``[groups, q]``
    where q is large. An output error with covariance D raises the loss by about ``tr(F D) / 2`` (the output factor of
    K-FAC, Martens & Grosse 2015). ``loss`` is by default the cross-entropy against labels drawn from the output.
    """
    generator = torch.Generator().manual_seed(seed)
    loss = loss or (lambda output, _inputs: drawn_loss(output, generator))
    layers = {layer.node: layer for group in graph.exact for layer in graph.consumers[group.name]}
    layers |= {layer.node: layer for layer in also}
    sums: dict[str, Tensor] = {}
    samples = 0
    for inputs in pieces(graph, batches) if layers else ():
        with torch.enable_grad():
            made = run_watched(graph, inputs, set(layers), loss)
        for node, value in made.items():
            if value.grad is not None:
                layer, found = layers[node], _squares(layers[node], value.grad)
                sums[layer.name] = sums[layer.name] + found if layer.name in sums else found
        samples += inputs.batch or 1
        if samples >= SAMPLES:
            break
    return {name: total / samples for name, total in sums.items()}


def _squares(layer: Layer, gradient: Tensor) -> Tensor:
    rows = gradient.movedim(layer.channel_dim, -1).flatten(0, -2).unflatten(-1, (layer.groups, -1)).movedim(1, 0)
    if rows.shape[-1] > WIDEST:
        return rows.square().sum(1).double().cpu()
    return (rows.mT @ rows).double().cpu()


def weighed(errors: Tensor, factor: Tensor) -> Tensor:
    """Output errors ``[..., q]`` times L with ``F = L L^T`` (``[q, q]`` or ``[q]``): squares that F counts."""
    if factor.ndim == 1:
        return errors * factor.sqrt()
    values, vectors = torch.linalg.eigh(factor)  # few samples span few directions: the others are zero but for rounding
    return errors @ (vectors * values.clamp_min(0).sqrt())
