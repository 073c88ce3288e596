"""The same values as torch.nn.utils.prune, class by class: masks, compounding, what ``remove`` leaves."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune as original

from workbench import sparsify as sp

AMOUNTS = [0.0, 0.3, 0.5, 1.0, 0, 3]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 10, 3), nn.ReLU(), nn.ConvTranspose2d(10, 6, 2), nn.Flatten(), nn.Linear(12, 8))


def like(amount: float) -> Any:
    """torch.nn.utils.prune's amounts are of what is left."""
    return sp.Further(amount)


def same(model: nn.Module, other: nn.Module) -> bool:
    """The other one's hooks are removed, which leaves the pruned values under the old names in another order."""
    for module in other.modules():
        for name in [n.removesuffix("_orig") for n, _ in module.named_parameters(recurse=False) if n.endswith("_orig")]:
            original.remove(module, name)
    mine, theirs = dict(model.named_parameters()), dict(other.named_parameters())
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("amounts", [(a,) for a in AMOUNTS] + [(0.5, 0.5), (0.2, 3, 0.4)], ids=str)
def test_l1_unstructured(amounts: tuple[float, ...]) -> None:
    mine, theirs, masks = net(), net(), None
    for amount in amounts:
        masks = sp.prune(mine, like(amount), masks=masks)
        for layer in (theirs[0], theirs[2], theirs[4]):
            original.l1_unstructured(layer, "weight", amount)
    sp.mask_(mine, masks or {})
    assert same(mine, theirs)


def test_half_and_half_is_three_quarters() -> None:
    model = net()
    rule = sp.Rule(layers=("4",))  # 96 weights
    once = sp.prune(model, 0.5, rule)
    assert sp.sparsity_of(sp.prune(model, sp.Further(0.5), rule, masks=once)) == 0.75
    assert sp.sparsity_of(sp.prune(model, sp.Absolute(0.5), rule, masks=once)) == 0.5


@pytest.mark.parametrize("amounts", [(0.3,), (2,), (0.2, 0.2), (0.5, 0.5)], ids=str)
@pytest.mark.parametrize(("n", "dim"), [(1, 0), (2, 0), (2, 1), (3, 2), (math.inf, 0)])
def test_ln_structured(amounts: tuple[float, ...], n: float, dim: int) -> None:
    mine, theirs, masks = net(), net(), None
    for amount in amounts:
        rule = sp.Rule(sp.Magnitude(n), sp.Slices(dim), layers=("0",))
        masks = sp.prune(mine, like(amount), rule, masks=masks)
        original.ln_structured(theirs[0], "weight", amount, n, dim)
    sp.mask_(mine, masks or {})
    assert same(mine, theirs)
    assert masks is not None
    assert not masks["0.weight"].all()


def torch_draw(view: sp.WeightView) -> Tensor:
    """As RandomUnstructured draws: the largest of uniform numbers leave."""
    return -torch.rand_like(view.weight)


def test_random_unstructured() -> None:
    mine, theirs = net(), net()
    torch.manual_seed(7)
    sp.mask_(mine, sp.prune(mine, 0.4, sp.Rule(sp.Own(torch_draw), layers=("0", "4"))))
    torch.manual_seed(7)
    original.random_unstructured(theirs[0], "weight", 0.4)
    original.random_unstructured(theirs[4], "weight", 0.4)
    assert same(mine, theirs)


class TorchDraw(sp.Criterion):
    """As RandomStructured draws: one number a channel."""

    def elements(self, view: sp.WeightView) -> Tensor:
        return torch.rand(len(view.weight))[:, None, None, None].expand(view.weight.shape)


def test_random_structured() -> None:
    mine, theirs = net(), net()
    torch.manual_seed(7)
    sp.mask_(mine, sp.prune(mine, 0.4, sp.Rule(TorchDraw(), sp.rows(), layers=("0",))))
    torch.manual_seed(7)
    original.random_structured(theirs[0], "weight", 0.4, dim=0)
    assert same(mine, theirs)


def test_custom_from_mask_and_identity() -> None:
    mine, theirs = net(), net()
    mask = torch.rand(8, 12) > 0.5
    sp.mask_(mine, {"4.weight": mask})
    original.custom_from_mask(theirs[4], "weight", mask)
    original.identity(theirs[0], "weight")
    assert same(mine, theirs)


@pytest.mark.parametrize("amounts", [(0.5,), (40,), (0.5, 0.5), (0.1, 100)], ids=str)
def test_global_unstructured(amounts: tuple[float, ...]) -> None:
    mine, theirs, masks = net(), net(), None
    parameters = [(theirs[place], "weight") for place in (0, 2, 4)]
    for amount in amounts:
        masks = sp.prune(mine, like(amount), sp.Rule(scope=sp.Together()), masks=masks)
        original.global_unstructured(parameters, original.L1Unstructured, amount=amount)
    sp.mask_(mine, masks or {})
    assert same(mine, theirs)


def test_a_mixture_in_a_container() -> None:
    mine, theirs = net(), net()
    masks = sp.prune(mine, like(0.3), sp.Rule(layers=("0",)))
    masks = sp.prune(mine, like(0.4), sp.Rule(sp.Magnitude(2), sp.rows(), layers=("0",)), masks=masks)
    masks = sp.prune(mine, like(5), sp.Rule(layers=("0.weight", "0.bias")), masks=masks)
    original.l1_unstructured(theirs[0], "weight", 0.3)
    original.ln_structured(theirs[0], "weight", 0.4, 2, 0)
    original.l1_unstructured(theirs[0], "weight", 5)
    original.l1_unstructured(theirs[0], "bias", 5)
    assert same(sp.mask_(mine, masks), theirs)


def test_permanent_keeps_the_order_that_remove_changes() -> None:
    mine, theirs = net(), net()
    before = list(mine.state_dict())
    sp.mask_(mine, sp.prune(mine, 0.5))
    original.l1_unstructured(theirs[0], "weight", 0.5)
    original.remove(theirs[0], "weight")
    assert list(mine.state_dict()) == before
    assert list(theirs.state_dict()) != before
    copy.deepcopy(mine)  # the original raises here before a first forward


def test_importance_scores_of_ones_own() -> None:
    mine, theirs = net(), net()
    scores = torch.rand(8, 12)
    sp.mask_(mine, sp.prune(mine, 0.5, sp.Rule(sp.Own(lambda view: scores), layers=("4",))))
    original.l1_unstructured(theirs[4], "weight", 0.5, importance_scores=scores)
    assert same(mine, theirs)
