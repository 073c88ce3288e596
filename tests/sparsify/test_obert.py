"""oBERT against direct inverses: Woodbury, saliencies of units, and the joint update beside summed single ones."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from workbench import sparsify as sp
from workbench.sparsify.fisher_blocks import FisherBlocks

DATA = torch.randn(48, 6, generator=torch.Generator().manual_seed(2))


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))


def loss(output: Tensor, _inputs: object) -> Tensor:
    return output.pow(4).sum()


def fisher(seed: int, count: int = 20, damp: float = 1e-3) -> tuple[FisherBlocks, Tensor]:
    """Three blocks of eight weights, and the same matrices summed and not inverted."""
    generator = torch.Generator().manual_seed(seed)
    found = FisherBlocks.empty(3, 8, count, damp, torch.device("cpu"))
    direct = damp * torch.eye(8, dtype=torch.float64).repeat(3, 1, 1)
    for gradient in torch.randn(count, 3, 8, generator=generator, dtype=torch.float64):
        found.add(gradient)
        direct += gradient[:, :, None] * gradient[:, None, :] / count
    return found, direct


@given(st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_woodbury_is_the_direct_inverse(seed: int) -> None:
    found, direct = fisher(seed)
    assert torch.allclose(found.inverse, torch.linalg.inv(direct), rtol=0, atol=1e-9)


@pytest.mark.parametrize("unit", [1, 2, 4, 8])
def test_saliency_is_what_the_joint_update_costs(unit: int) -> None:
    """Each unit alone: the least that the quadratic model can grow by when it leaves."""
    found, direct = fisher(1)
    weight = torch.randn(3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    saliency = found.saliency(weight, unit)
    for place in range(8 // unit):
        kept = torch.ones(3, 8, dtype=torch.bool)
        kept[:, place * unit : (place + 1) * unit] = False
        change = found.update(weight, kept) - weight
        grown = torch.einsum("bi,bij,bj->b", change, direct, change) / 2
        assert torch.allclose(saliency[:, place], grown, rtol=1e-8)


@given(st.integers(0, 100), st.floats(0.1, 0.9))
@settings(max_examples=30, deadline=None)
def test_joint_is_never_worse_than_summed(seed: int, share: float) -> None:
    """Nor than zeros alone; and no small step along what stays makes it better."""
    found, direct = fisher(seed)
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(3, 8, dtype=torch.float64, generator=generator)
    kept = torch.rand(3, 8, generator=generator) > share
    joint = found.update(weight, kept)
    diagonal = torch.diagonal(found.inverse, dim1=1, dim2=2)
    single = -(weight * ~kept / diagonal)[:, :, None] * found.inverse.mT  # each weight that leaves, alone
    summed = (weight + single.sum(1)).masked_fill(~kept, 0)

    def grown(new: Tensor) -> float:
        return float(torch.einsum("bi,bij,bj->", new - weight, direct, new - weight)) / 2

    assert not joint[~kept].any()
    assert grown(joint) <= grown(summed) * (1 + 1e-9)
    assert grown(joint) <= grown(weight * kept) * (1 + 1e-9)
    assert found.grown(joint - weight) == pytest.approx(grown(joint), rel=1e-6)
    nudged = joint + 1e-4 * torch.randn(3, 8, dtype=torch.float64, generator=generator) * kept
    assert grown(joint) <= grown(nudged) + 1e-12


def brute(model: nn.Sequential, name: str, block: int, damp: float) -> tuple[Tensor, Tensor]:
    """A tensor's flat weights and the inverse of its whole Fisher matrix, zero between blocks."""
    weight = model.get_parameter(name)
    rows = []
    for batch in DATA.split(4):
        (gradient,) = torch.autograd.grad(loss(model(batch), None) / len(batch), weight)
        rows.append(gradient.flatten().double())
    size = weight.numel()
    whole = torch.stack(rows).T @ torch.stack(rows) / len(rows) + damp * torch.eye(size)
    same = torch.arange(size)[:, None] // block == torch.arange(size) // block
    return weight.detach().flatten().double(), torch.linalg.inv(whole * same)


@pytest.mark.parametrize("memory", [1 << 30, 1], ids=["held", "spilled"])
def test_a_model_by_brute_force(memory: int) -> None:
    """All weights of all layers compete; blocks of 10 do not divide 48 and 32."""
    model, parts = net(), {}
    for name in ("0.weight", "2.weight"):
        weight, inverse = brute(model, name, 10, 1e-3)
        parts[name] = weight, inverse, weight.square() / inverse.diagonal() / 2
    order = torch.cat([part[2] for part in parts.values()]).argsort()[:40]
    gone = torch.zeros(80, dtype=torch.bool).index_fill_(0, order, True).split([48, 32])
    found = sp.prune_obert(model, 0.5, calibration=DATA.split(4), loss=loss, block=10, damp=1e-3, memory=memory)
    for (name, (weight, inverse, _)), leaves in zip(parts.items(), gone, strict=True):
        assert torch.equal(~found.masks[name].flatten(), leaves)
        wanted = weight - inverse[:, leaves] @ torch.linalg.solve(inverse[leaves][:, leaves], weight[leaves])
        assert torch.allclose(found.model.get_parameter(name).flatten().double(), wanted, atol=1e-5)
        assert found.predicted[name] > 0
    assert torch.equal(model[0].weight, net()[0].weight)


@pytest.mark.parametrize("pattern", [sp.NofM(2, 4), sp.Blocks(2, 2)], ids=repr)
def test_patterns_and_masks_from_before(pattern: sp.Pattern) -> None:
    """Exactly so many units leave, and what was masked stays so: one step of a gradual schedule after the other."""
    model, scope = net(), sp.Each() if isinstance(pattern, sp.NofM) else sp.Together()
    options = {"calibration": DATA.split(4), "loss": loss, "layers": ("2",), "block": 10}
    first = sp.prune_obert(model, 0.25, pattern, scope, **options)
    second = sp.prune_obert(first.model, 0.5, pattern, scope, masks=first.masks, **options)
    assert [int((~one.masks["2.weight"]).sum()) for one in (first, second)] == [8, 16]
    assert not (second.masks["2.weight"] & ~first.masks["2.weight"]).any()
    sp.check(second.model, second.masks)


def test_refused() -> None:
    with pytest.raises(ValueError, match=r"block=50 and damp=0 make no sense"):
        sp.prune_obert(net(), 0.5, calibration=DATA, damp=0)


def test_frozen_weights_are_worth_what_others_are() -> None:
    model = net()
    free = sp.prune_obert(model, 0.4, calibration=DATA.split(1), loss=loss, block=8)
    worth = sp.prune(model, 0.5, sp.Rule(sp.Taylor()), calibration=DATA.split(8), loss=loss)
    model[0].requires_grad_(False)
    frozen = sp.prune_obert(model, 0.4, calibration=DATA.split(1), loss=loss, block=8)
    assert frozen.predicted == free.predicted
    assert all(torch.equal(mask, free.masks[name]) for name, mask in frozen.masks.items())
    masks = sp.prune(model, 0.5, sp.Rule(sp.Taylor()), calibration=DATA.split(8), loss=loss)
    assert all(torch.equal(mask, worth[name]) for name, mask in masks.items())
    assert [parameter.requires_grad for parameter in model.parameters()] == [False, False, True, True]
