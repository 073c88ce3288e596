"""oBERT: masks and weights in one shot by gradients, with the Fisher information of blocks of weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workbench.calibrate import MEMORY, Batches
from workbench.graph.tensors import set_tensors_
from workbench.signals import Loss
from workbench.sparsify.amounts import Amount, amount_of
from workbench.sparsify.contest import Contest
from workbench.sparsify.evidence import gradients
from workbench.sparsify.fisher_blocks import FisherBlocks
from workbench.sparsify.masks import fitting
from workbench.sparsify.patterns import Elements, Pattern
from workbench.sparsify.rule import merged
from workbench.sparsify.scopes import Scope, Together
from workbench.sparsify.sites import Site, sites_of
from workbench.sparsify.units import Masks, TensorUnits
from workbench.spill import Memory, Spill

BLOCK = 50
DAMP = 1e-7


@dataclass(frozen=True)
class Obert:
    """The sparse model, its masks, and by how much the quadratic model says that a batch's loss grows, by tensor."""

    model: nn.Module
    masks: Masks
    predicted: Mapping[str, float]


def prune_obert(
    model: nn.Module, amount: Amount | float, pattern: Pattern = Elements(), scope: Scope = Together(), *,
    calibration: Any, loss: Loss | None = None, layers: Sequence[str] = ("*",), ignore: Sequence[str] = (),
    masks: Mapping[str, Tensor] | None = None, block: int = BLOCK, damp: float = DAMP, memory: int = MEMORY,
    seed: int = 0,
) -> Obert:  # fmt: skip
    """A sparse copy of a model: units leave that cost the loss least, and what stays in their block makes up for them.

    Kurtic et al. 2022 (arXiv 2203.07259). With masks from before and training in between it is one step of their
    gradual schedule. Where they add up what each weight alone would change, the update here is that of all weights
    together, which the quadratic model never finds worse.

    Parameters
    ----------
    pattern, scope, layers, ignore, masks : as for ``prune``
    calibration : every batch gives one gradient; 1,024 are usual
    loss : ``loss(output, inputs)``; by default cross-entropy against drawn labels
    block : weights of which all pairs are looked at, side by side as the pattern arranges them
    damp : what is added to the diagonal
    memory : bytes of the inverses that are gathered in one pass over the data; the others wait on disk

    Raises
    ------
    ValueError
        A name means nothing, a shape does not divide, or the amount cannot be had.

    Examples
    --------
    >>> found = prune_obert(nn.Linear(4, 2), 0.5, calibration=torch.randn(64, 4).split(4))
    >>> int(found.masks["weight"].sum()), int((found.model.weight == 0).sum())
    (4, 4)
    """
    if block < 1 or not damp > 0:
        raise ValueError(f"block={block} and damp={damp} make no sense; give 1 or more, and a damp above 0")
    before = dict(masks or {})
    fitting(model, before)
    tensors = [_Blocked.of(site, pattern, block) for site in sites_of(model, layers, ignore)]
    weights = {one.name: _weight(model, one.name, before) for one in tensors}
    batches = Batches.of(calibration)
    inverses = _gathered(model, tensors, batches, loss, damp, memory, seed)
    contests = [one.contest(weights[one.name], FisherBlocks(inverses[one.name], batches.count), before)
                for one in tensors]  # fmt: skip
    chosen = scope(contests, amount_of(amount))
    kept = merged([before, *(one.units.spread(some) for one, some in zip(tensors, chosen, strict=True))])
    changed, predicted = {}, {}
    for one in tensors:
        old, fisher = one.taken(weights[one.name]), FisherBlocks(inverses[one.name], batches.count)
        new = fisher.update(old, one.taken(kept[one.name]).bool() | one.padded(old.device))
        changed[one.name] = one.given(new).to(weights[one.name])
        predicted[one.name] = fisher.grown(new - old)
    pruned = copy.deepcopy(model)
    set_tensors_(pruned, changed)
    return Obert(pruned, kept, predicted)


def _weight(model: nn.Module, name: str, masks: Mapping[str, Tensor]) -> Tensor:
    weight = model.get_parameter(name).detach()
    return weight.masked_fill(~masks[name].to(weight.device), 0) if name in masks else weight


def _gathered(
    model: nn.Module, tensors: Sequence[_Blocked], batches: Batches, loss: Loss | None, damp: float, memory: int,
    seed: int,
) -> Mapping[str, Tensor]:  # fmt: skip
    """The inverses, ``[blocks, B, B]`` each, in as many passes over the data as they need, with the same labels."""
    found = Spill(Memory(memory))
    for some in _rounds(tensors, memory):
        fishers = {
            one.name: FisherBlocks.empty(
                one.blocks, one.size, batches.count, damp, model.get_parameter(one.name).device
            ) for one in some
        }  # fmt: skip
        for grads in gradients(model, batches, loss, seed):
            for one in some:
                if one.name in grads:  # else the output does not depend on it, now
                    fishers[one.name].add(one.taken(grads[one.name]))
        for name in list(fishers):
            found[name] = fishers.pop(name).inverse
    return found


def _rounds(tensors: Sequence[_Blocked], memory: int) -> Iterator[list[_Blocked]]:
    """As many at a time as their inverses fit into memory, one at least."""
    some: list[_Blocked] = []
    for one in tensors:
        if some and sum(other.nbytes for other in some) + one.nbytes > memory:
            yield some
            some = []
        some.append(one)
    if some:
        yield some


@dataclass(frozen=True)
class _Blocked:
    """One tensor in blocks: its weights in the pattern's order, units side by side, filled up with zeros."""

    units: TensorUnits
    order: Tensor  # the place of each weight, sets and units one behind the other
    shape: torch.Size  # [sets, units, elements]
    size: int

    @classmethod
    def of(cls, site: Site, pattern: Pattern, block: int) -> _Blocked:
        cells = pattern.cells(site, torch.arange(site.shape.numel()).view(site.shape))
        unit = cells.shape[2]
        return cls(TensorUnits(site, pattern), cells.flatten(), cells.shape, max(block // unit, 1) * unit)

    @property
    def name(self) -> str:
        return self.units.name

    @property
    def blocks(self) -> int:
        return -(-len(self.order) // self.size)

    @property
    def nbytes(self) -> int:
        return 8 * self.blocks * self.size**2

    def taken(self, tensor: Tensor) -> Tensor:
        flat = tensor.detach().flatten()[self.order.to(tensor.device)].double()
        return nn.functional.pad(flat, (0, self.blocks * self.size - len(flat))).view(self.blocks, self.size)

    def given(self, blocks: Tensor) -> Tensor:
        flat = blocks.flatten()[: len(self.order)]
        return torch.empty_like(flat).scatter_(0, self.order.to(flat.device), flat).view(self.units.site.shape)

    def padded(self, device: torch.device) -> Tensor:
        """Which places of the blocks are no weights."""
        return (torch.arange(self.blocks * self.size, device=device) >= len(self.order)).view(self.blocks, self.size)

    def contest(self, weight: Tensor, fisher: FisherBlocks, before: Mapping[str, Tensor]) -> Contest:
        """What the units are worth, ``[sets, units]``."""
        sets, units, elements = self.shape
        worth = fisher.saliency(self.taken(weight), elements).flatten()[: sets * units].view(sets, units)
        mask = before.get(self.name, torch.ones_like(weight, dtype=torch.bool))
        return Contest(self.units, worth, ~self.units.present({self.name: mask}))
