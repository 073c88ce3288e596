"""How much each layer loses: by its outliers (OWL), or by what it costs, through the exact allocator."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workbench.allocate import Choice, Problem, Resource, Term, solve
from workbench.calibrate import Evidence, Statistics, calibrate
from workbench.graph.trace import ChannelGraph, Layer
from workbench.select import Path
from workbench.sensitivity.predict import expected
from workbench.signals import Loss
from workbench.sparsify.layerwise.sites import Like, chosen
from workbench.sparsify.layerwise.sparse_gpt import inverse_factor
from workbench.sparsify.patterns import Elements
from workbench.sparsify.scopes import Shares

LEVELS = 40  # shares that the allocator may give a layer
DAMP = 0.01


def owl(
    graph: ChannelGraph, amount: float, *, calibration: Iterable[Any], spread: float = 0.08, outlier: float = 5.0,
    layers: Sequence[Like] = ("*",), ignore: Sequence[Like] = (), seed: int = 0,
) -> Shares:  # fmt: skip
    """Layers with more outliers lose less (Yin et al. 2024, arXiv 2310.05175).

    An outlier is a weight whose ``|w| * ||x||`` is more than ``outlier`` times the layer's mean. Shares lie in a range
    of twice the ``spread``; over all weights they come to ``amount``.

    Raises
    ------
    ValueError
        The range leaves 0 to 1.
    """
    found, _ = chosen(graph, layers, ignore, Elements())
    statistics = calibrate(graph, calibration, also=list(found.values()), seed=seed)
    outliers = np.array([_outliers(graph, layer, statistics.layers[layer.name], outlier) for layer in found.values()])
    sizes = np.array([layer.shape.numel() for layer in found.values()], float)
    wide = outliers.max() - outliers.min()
    kept = 2 * spread * (outliers - outliers.min()) / (wide or 1.0)
    shares = amount + (kept * sizes).sum() / sizes.sum() - kept
    if shares.min() < 0 or shares.max() > 1:
        raise ValueError(
            f"with spread={spread} layers would lose {shares.min():.2f} to {shares.max():.2f} of their weights; give a "
            "smaller spread, or an amount further from 0 and 1"
        )
    return Shares({layer.weight: float(share) for layer, share in zip(found.values(), shares, strict=True)})


def by_sensitivity(
    graph: ChannelGraph, amount: float, *, calibration: Iterable[Any], maximum: float = 0.95, loss: Loss | None = None,
    layers: Sequence[Like] = ("*",), ignore: Sequence[Like] = (), seed: int = 0,
) -> Shares:  # fmt: skip
    """The shares that lose least in all, as the exact allocator finds them; at most ``maximum`` of a layer.

    What a layer loses with so many weights gone is the sum of their ``w_i^2 / [H^-1]_ii``, once as an error of its
    output and once in the metric of the output's Fisher information; both count, as for the widths of channels.

    Raises
    ------
    Unreachable
        The layers cannot lose so much.
    """
    found, _ = chosen(graph, layers, ignore, Elements())
    also = list(found.values())
    statistics = calibrate(graph, calibration, also=also, needs={"fisher"}, loss=loss, seed=seed)
    options = {layer.name: _options(layer, maximum) for layer in also}
    paths = {layer.name: _path(graph, layer, statistics, options[layer.name]) for layer in also}
    choices = tuple(
        Choice(name, options[name], tuple(value - lost[-1] for value in lost)) for name, lost in expected(paths).items()
    )
    terms = tuple(Term(choice.name, (place,), np.array(choice.options)) for place, choice in enumerate(choices))
    whole = sum(layer.shape.numel() for layer in also)
    weights = Resource("weights", terms, 0, round((1 - amount) * whole))
    kept = solve(Problem(choices, (weights,))).options
    return Shares({layer.weight: 1 - kept[layer.name] / layer.shape.numel() for layer in also})


def _options(layer: Layer, maximum: float) -> tuple[int, ...]:
    """How many weights may stay, from the fewest on; all at last."""
    size = layer.shape.numel()
    levels = [round(size * (1 - maximum * level / LEVELS)) for level in range(LEVELS, -1, -1)]
    return tuple(dict.fromkeys(max(1, level) for level in levels))


def _path(graph: ChannelGraph, layer: Layer, statistics: Statistics, options: Sequence[int]) -> Path:
    """What is lost when so many weights stay, for each of the options."""
    evidence = statistics.layers[layer.name]
    single = _single(graph, layer, evidence)
    errors = _lost(single, options)
    energy = evidence.all.energy / max(evidence.all.count, 1) or 1.0
    fisher = statistics.fisher.get(layer.name)
    losses: tuple[float, ...] = ()
    if fisher is not None:
        own = fisher if fisher.ndim == 2 else torch.diagonal(fisher, dim1=1, dim2=2)
        losses = _lost(single * own.clamp_min(0)[:, :, None] / 2, options)
    return Path((), tuple(error / energy for error in errors), losses)


def _single(graph: ChannelGraph, layer: Layer, evidence: Evidence) -> Tensor:
    """The mean squared output error that each weight costs alone, ``[groups, outputs, columns]``."""
    moments = evidence.all
    matrix = moments.xx[:, :-1, :-1] / max(moments.count, 1)
    diagonal = torch.diagonal(matrix, dim1=1, dim2=2)
    diagonal += DAMP * diagonal.mean(1, keepdim=True) + diagonal.eq(0)
    inverse = inverse_factor(matrix).square().sum(1)  # the diagonal of U^T U
    return _weight(graph, layer).square() / inverse[:, None]


def _lost(single: Tensor, options: Sequence[int]) -> tuple[float, ...]:
    """The least that so many of them come to."""
    sums = torch.nn.functional.pad(single.flatten().sort().values.cumsum(0), (1, 0))
    return tuple(sums[single.numel() - torch.tensor(options)].tolist())


def _outliers(graph: ChannelGraph, layer: Layer, evidence: Evidence, outlier: float) -> float:
    norms = torch.diagonal(evidence.all.xx, dim1=1, dim2=2)[:, None, :-1].sqrt()
    scores = _weight(graph, layer).abs() * norms
    return float((scores > outlier * scores.mean()).double().mean())


def _weight(graph: ChannelGraph, layer: Layer) -> Tensor:
    weight = layer.turned(graph.program.tensors[layer.weight].detach())
    return weight.cpu().double().flatten(1).unflatten(0, (layer.groups, -1))
