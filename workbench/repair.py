"""From kept units to the repaired tensors of the layers that read them: zero in dropped columns, in the old shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from workbench.blocks import Blocks
from workbench.calibrate import Evidence
from workbench.factorize.bilinear import STEPS
from workbench.factorize.layers import Form, compose
from workbench.factorize.shape import Shape, metric_of
from workbench.graph.trace import ChannelGraph, Layer
from workbench.moments import Moments
from workbench.reconstruct import RIDGES, Repair, reconstruct
from workbench.select.path import columns_of

TRIAL = 15  # steps of a descent that show whether the data helps

Kept = Mapping[str, Iterable[int]]  # group -> the units that stay


def repair_layer(
    graph: ChannelGraph, layer: Layer, columns: Sequence[int], evidence: Evidence, ridges: Sequence[float] = RIDGES,
    outputs: Sequence[int] | None = None,
) -> Repair:  # fmt: skip
    """The repair of a layer with only these columns, as ``kept_columns`` numbers them; the evidence is theirs.

    Where only some ``outputs`` stay, the others' errors count for nothing and their weights are zero.
    """
    tensors = graph.program.tensors
    weight, bias = layer.turned(tensors[layer.weight]), tensors[layer.bias] if layer.bias else None
    intercept = bool(layer.bias or layer.mean)
    blocks = Blocks.of(layer, graph)
    if blocks is not None:
        found = _by_channel(blocks, weight, bias, columns, evidence, intercept, ridges)
    elif outputs is None or layer.groups > 1:
        found = reconstruct(weight, bias, columns, evidence, intercept=intercept, ridges=ridges)
    else:
        found = _of_outputs(weight, bias, columns, evidence, intercept, ridges, torch.tensor(outputs))
    return replace(found, weight=layer.turned(found.weight).contiguous())


def _of_outputs(
    weight: Tensor, bias: Tensor | None, columns: Sequence[int], evidence: Evidence, intercept: bool,
    ridges: Sequence[float], outputs: Tensor,
) -> Repair:  # fmt: skip
    stay = outputs.to(weight.device)
    part = None if bias is None else bias[stay]
    found = reconstruct(weight[stay], part, columns, evidence.outputs(outputs), intercept=intercept, ridges=ridges)
    whole = torch.zeros_like(weight).index_copy(0, stay, found.weight)
    constant = None if found.bias is None else found.bias.new_zeros(len(weight)).index_copy(0, stay, found.bias)
    return replace(found, weight=whole, bias=constant)


def _by_channel(
    blocks: Blocks, weight: Tensor, bias: Tensor | None, channels: Sequence[int], evidence: Evidence, intercept: bool,
    ridges: Sequence[float],
) -> Repair:  # fmt: skip
    fit = reconstruct(blocks.scale.diag(), None, channels, evidence, intercept=intercept, ridges=ridges)
    constant = torch.zeros(len(weight)) if bias is None else bias.detach()
    offset = torch.zeros_like(blocks.scale) if fit.bias is None else fit.bias
    new, shifted = blocks.taken_up(weight, constant.to(weight), fit.weight, offset)
    return Repair(new, shifted, fit.error, fit.ridge)


def lowered(
    layer: Layer, form: Form, repair: Repair, columns: Sequence[int], evidence: Evidence,
    outputs: Sequence[int] | None = None, steps: int = STEPS,
) -> Repair:  # fmt: skip
    """A repair whose weight is of a lower rank: with the least error of the output by the evidence, or as without data.

    What is better on held-out rows is taken. The rank is at most the full one of what is left of the layer; ``outputs``
    are those that stay.
    """
    stay = torch.arange(len(repair.weight)) if outputs is None or layer.groups > 1 else torch.tensor(outputs)
    evidence = evidence.outputs(stay) if len(stay) < len(repair.weight) else evidence
    rows = repair.weight.detach().cpu().double().flatten(1)[stay][:, torch.tensor(columns)]
    weight = rows.unflatten(1, (-1, *layer.shape[2:])).unflatten(0, (layer.groups, -1))
    bias = torch.zeros(len(rows)) if repair.bias is None else repair.bias.detach().cpu()[stay]
    lower = _Lower(layer, form, weight, bias.double().view(layer.groups, 1, -1), steps)
    solution, error = lower.best(evidence)
    whole = torch.zeros_like(repair.weight).flatten(1)
    whole[stay[:, None], torch.tensor(columns)] = solution[:, :-1].mT.flatten(0, 1).to(whole)
    constant = whole.new_zeros(len(whole))
    constant[stay] = solution[:, -1].flatten().to(whole)
    error /= evidence.held_out.energy or 1.0
    return Repair(whole.view_as(repair.weight), constant, (repair.error[0], error), repair.ridge)


@dataclass(frozen=True)
class _Lower:
    """Solutions ``[groups, p + 1, q]`` of a lower rank than a weight ``[groups, q, p...]`` with its constant."""

    layer: Layer
    form: Form
    weight: Tensor
    constant: Tensor
    steps: int

    def best(self, evidence: Evidence) -> tuple[Tensor, float]:
        """By the data or without, and its error on held-out rows."""
        fit, check = evidence.fit, evidence.held_out
        quick = replace(self, steps=min(self.steps, TRIAL))
        aware, plain = (check.error(quick.solution(fit, by_data)) for by_data in (True, False))
        return self.solution(evidence.all, aware <= plain), min(aware, plain)  # the choice is made: use every row

    def solution(self, moments: Moments, by_data: bool) -> Tensor:
        """Where the layer can have another constant, the one that makes the mean error zero."""
        intercept = bool(self.layer.bias or self.layer.mean)
        metric = metric_of(moments, intercept) if by_data else None
        groups, outputs, inputs, *kernel = self.weight.shape
        shape = Shape(groups, outputs, inputs, tuple(kernel))
        rank = min(self.form.rank, self.form.method.full(shape))
        matrix = compose(self.form.method.factors(self.weight, rank, metric, self.steps)).flatten(2).mT
        constant = self.constant
        if intercept and moments.count:
            constant = (moments.xy[:, -1:] - moments.xx[:, -1:, :-1] @ matrix) / moments.count
        return torch.cat([matrix, constant], 1)


def repaired_tensors(layer: Layer, repair: Repair, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The model's tensors that a repair changes."""
    changed = {layer.weight: repair.weight}
    if layer.bias and repair.bias is not None:
        changed[layer.bias] = repair.bias
    elif layer.mean and repair.bias is not None:
        changed[layer.mean] = tensors[layer.mean] - repair.bias
    return changed


def kept_columns(graph: ChannelGraph, layer: Layer, kept: Kept) -> list[int]:
    """The columns of a layer's evidence that stay when only these units do."""
    blocks = Blocks.of(layer, graph)
    gone: set[int] = set()
    for name, units in kept.items():
        if any(layer.name == reader.name for reader in graph.consumers[name]):
            stay = set(units)
            columns = columns_of(graph[name], layer, blocks)
            gone.update(column for unit, some in enumerate(columns) if unit not in stay for column in some)
    total = layer.shape[1:].numel() if blocks is None else len(blocks.columns)
    return [column for column in range(total) if column not in gone]
