"""One layer: from evidence to the pruned weight and bias."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from workbench.calibrate import Evidence
from workbench.graph.trace import ChannelGraph, Layer
from workbench.reconstruct import Repair
from workbench.repair import repair_layer, repaired_tensors
from workbench.sparsify.amounts import Amount
from workbench.sparsify.layerwise.problem import Method, Problem, Solution
from workbench.sparsify.layerwise.refit import refitted
from workbench.sparsify.patterns import Pattern

MASK = "/mask"  # among a layer's tensors, of which none can be called so
DAMP = 1e-4  # of the mean square of the inputs, where weights are refitted
STILL = 1e-6  # of an input's mean square: a variance below is what float32 rounds, and the input constant


@dataclass(frozen=True)
class Step:
    """What became of one layer: which share of its weights is zero, and what its output lost.

    ``before`` and ``after`` are squared errors against the original's output, over its variance, on the calibration
    rows: with the original weights reading from the network as pruned so far, and with the pruned ones.
    """

    layer: str
    weights: int
    sparsity: float
    before: float
    after: float


@dataclass(frozen=True)
class Surgery:
    """How every layer is treated; see ``prune_layerwise``."""

    graph: ChannelGraph
    method: Method
    pattern: Pattern
    correct: bool
    refit: int

    def operate(self, layer: Layer, evidence: Evidence, amount: Amount, gone: Tensor) -> tuple[dict[str, Tensor], Step]:
        """The tensors that change, with the mask (under the weight's name and ``MASK``), and what that did."""
        frame = _Frame.of(layer)
        tensors = self.graph.program.tensors
        old = layer.turned(tensors[layer.weight].detach())
        intercept = self.correct and bool(layer.bias or layer.mean)
        weight = layer.turned(self._drawn(layer, evidence)) if self.correct else old
        problem = frame.problem(layer.name, weight, evidence, intercept, layer.turned(gone))
        solution = self.method(problem, self.pattern, amount)
        if self.refit:
            matrix = problem.damped(DAMP)
            values = refitted(problem.weight, solution.weight, solution.kept, matrix, self.refit)
            solution = Solution.of(values, solution.kept)
        constant = torch.zeros(len(old), dtype=torch.float64)
        if layer.bias:
            constant = tensors[layer.bias].detach().cpu().double()
        before = frame.error(frame.matrix(old), constant, evidence)
        if intercept:
            constant = frame.constant(solution.weight, evidence)
        step = Step(
            layer.name, old.numel(), 1 - float(solution.kept.double().mean()), before,
            frame.error(solution.weight, constant, evidence),
        )  # fmt: skip
        repair = Repair(layer.turned(frame.own(solution.weight)).to(old).contiguous(), constant.to(old), (0, 0), None)
        if not intercept:
            repair = replace(repair, bias=None)
        changed = repaired_tensors(layer, repair, tensors)
        return changed | {MASK: layer.turned(frame.own(solution.kept)).contiguous()}, step

    def _drawn(self, layer: Layer, evidence: Evidence) -> Tensor:
        """The whole weight that comes closest to the original's output from what is read now."""
        columns = range(layer.shape[1:].numel())
        return repair_layer(self.graph, layer, columns, evidence).weight


@dataclass(frozen=True)
class _Frame:
    """Between a weight ``[out, in / groups, kernel...]`` and the matrices ``[groups, outputs, columns]`` of a problem.

    ``order`` says which column of the evidence each of these columns is.
    """

    shape: torch.Size
    groups: int
    order: Tensor

    @classmethod
    def of(cls, layer: Layer) -> _Frame:
        places = prod(layer.shape[2:])
        return cls(layer.shape, layer.groups, torch.arange(layer.shape[1] * places).view(-1, places).mT.flatten())

    def matrix(self, weight: Tensor) -> Tensor:
        return weight.cpu().movedim(1, -1).flatten(1).unflatten(0, (self.groups, -1)).double()

    def own(self, matrix: Tensor) -> Tensor:
        out, width, *kernel = self.shape
        return matrix.reshape(out, *kernel, width).movedim(-1, 1)

    def problem(self, name: str, weight: Tensor, evidence: Evidence, intercept: bool, gone: Tensor) -> Problem:
        """With an ``intercept`` what is constant in the inputs costs nothing: the bias takes it up."""
        xx, count = evidence.all.xx, max(evidence.all.count, 1)
        moments = xx[:, self.order[:, None], self.order] / count
        inputs = torch.diagonal(moments, dim1=1, dim2=2).clone()
        if intercept:
            mean = xx[:, -1, self.order] / count
            moments = moments - mean[:, :, None] * mean[:, None, :]
            varies = torch.diagonal(moments, dim1=1, dim2=2) > STILL * inputs
            moments = moments * varies[:, :, None] * varies[:, None, :]
        return Problem(name, self.matrix(weight), moments, inputs, self.matrix(gone).bool())

    def constant(self, weight: Tensor, evidence: Evidence) -> Tensor:
        """The bias that makes the mean error zero, ``[out]``."""
        moments = evidence.all
        mean = moments.xx[:, -1:, self.order] @ weight.mT
        return ((moments.xy[:, -1:] - mean) / max(moments.count, 1)).flatten()

    def error(self, weight: Tensor, constant: Tensor, evidence: Evidence) -> float:
        """Squared, over the variance of the wanted output."""
        solution = torch.empty(self.groups, len(self.order) + 1, self.shape[0] // self.groups, dtype=torch.float64)
        solution[:, self.order] = weight.mT
        solution[:, -1] = constant.view(self.groups, -1)
        moments = evidence.all
        return moments.error(solution) / (moments.energy or 1.0)
