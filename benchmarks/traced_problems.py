"""Allocation problems of torchvision's networks as they are traced, with synthetic curves and exact MACs."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torchvision

from workbench import Budget, SensitivityCurves, trace
from workbench.allocate import Problem
from workbench.graph.trace import ChannelGraph
from workbench.select import Path
from workbench.sensitivity import Curve, Point
from workbench.widths import width_problem

TRACED = ("mobilenet_v3_large", "swin_t")


@cache
def traced(name: str, side: int = 224) -> ChannelGraph:
    """The channel groups of a network with random weights, for square images."""
    return trace(getattr(torchvision.models, name)(weights=None).eval(), torch.zeros(1, 3, side, side))


def make_traced(name: str, options: int = 32, seed: int = 0, share: float = 0.5, side: int = 224) -> Problem:
    """About so many widths a group, at a share of the MACs.

    A group loses a random power of the share that leaves, times its luck, as in ``allocation_problems``.
    """
    graph, random, curves = traced(name, side), np.random.default_rng(seed), []
    for group in graph.exact:
        removed = 1 - np.arange(1, group.units) / group.units
        losses = random.uniform(0.2, 2.2) * removed ** random.uniform(1, 3)
        points = [Point(k / group.units, k, 0.0, loss) for k, loss in enumerate(losses.tolist(), 1)]
        curves.append(Curve(group.name, group.units, tuple(points), Path(tuple(range(group.units)))))
    multiples = {group.name: -(-group.units // options) for group in graph.exact}
    synthetic = SensitivityCurves("synthetic", 0.0, 1, "none", tuple(curves))
    return width_problem(graph, synthetic, Budget(macs=share, multiple=multiples))
