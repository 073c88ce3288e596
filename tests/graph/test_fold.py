"""Constant channels leave nothing behind: what they contributed moves into the next bias, or it is said why not."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import workbench as wb
from tests.models import Lambda

DEAD = [1, 4, 5]  # of eight channels
KEPT = [0, 2, 3, 6, 7]


def dead(norm: nn.Module) -> nn.Module:
    """A norm with random scales and offsets, and scale 0 for the dead channels."""
    for name, tensor in (*norm.named_parameters(), *norm.named_buffers()):
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 1.5)
            if name == "bias":
                tensor.data -= 1.0
    norm.weight.data[DEAD] = 0
    return norm


def compared(model: nn.Module, x: Tensor, group: str) -> tuple[float, wb.Verification]:
    """How far the smaller model is from the original itself, not from zeros; and what verify says."""
    model = model.double().eval()
    before = copy.deepcopy(model.state_dict())
    graph = wb.trace(model, x.double())
    small = graph.winnow({group: KEPT})
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    y = torch.randn(5, *x.shape[1:]).double()
    with torch.no_grad():
        error = (model(y) - small(y)).abs().max() / model(y).abs().max()
    return error.item(), wb.verify(graph, small)


def chain(bias: bool, norm: bool, padding: int = 0) -> nn.Module:
    conv = nn.Conv2d(8, 4, 3, padding=padding, bias=bias)
    return nn.Sequential(
        nn.Conv2d(3, 8, 1), dead(nn.BatchNorm2d(8)), nn.ReLU(), conv,
        nn.BatchNorm2d(4) if norm else nn.Identity(), nn.Conv2d(4, 2, 1),
    )  # fmt: skip


@pytest.mark.parametrize(("bias", "norm"), [(True, False), (True, True), (False, True)])
def test_a_bias_or_the_mean_behind_takes_it_up(bias: bool, norm: bool) -> None:
    torch.manual_seed(0)
    error, check = compared(chain(bias, norm), torch.randn(2, 3, 6, 6), "0")
    assert error < 1e-12
    assert check.ok
    assert check.lost == ()


def test_without_a_bias_it_is_said() -> None:
    torch.manual_seed(0)
    error, check = compared(chain(bias=False, norm=False), torch.randn(2, 3, 6, 6), "0")
    assert error > 1e-3
    assert check.lost == ("3: constant channels would need a bias, and it has none",)
    assert "3: constant channels would need a bias" in repr(check)


def test_padded_zeros_are_said() -> None:
    torch.manual_seed(0)
    error, check = compared(chain(bias=True, norm=False, padding=1), torch.randn(2, 3, 6, 6), "0")
    assert error > 1e-3
    assert check.ok  # it is the original with zeros, as everywhere
    (lost,) = check.lost
    assert lost.startswith("3: constant channels add something else at the border")


def deadened(layer: nn.Module, offset: float) -> nn.Module:
    layer.weight.data[DEAD] = 0
    layer.bias.data[DEAD] = offset
    return layer


def pooled(m: nn.Module, x: Tensor) -> Tensor:
    x = F.max_pool2d(F.silu(m.norm(m.make(x))), 2) + 1.0
    return m.read(torch.cat([x, x * 2], 1).mean((2, 3)))


def gated(m: nn.Module, x: Tensor) -> Tensor:
    x = m.make(x)
    return m.read((m.norm(x).sigmoid() * m.other(x)).flatten(1))


def attended(m: nn.Module, x: Tensor) -> Tensor:
    return m.read(F.gelu(m.make(x.flatten(2).transpose(1, 2))))


CASES: dict[str, tuple[Callable[[], nn.Module], str, bool]] = {
    "pool, concatenation, mean": (
        lambda: Lambda(pooled, make=nn.Conv2d(3, 8, 1), norm=dead(nn.BatchNorm2d(8)), read=nn.Linear(16, 4)),
        "make", True,
    ),
    "a product with what is not constant": (
        lambda: Lambda(gated, make=nn.Conv2d(3, 8, 1), norm=dead(nn.BatchNorm2d(8)),
                       other=nn.Conv2d(8, 8, 1), read=nn.Linear(8 * 36, 4)), "make", False,
    ),
    "rows of zeros": (
        lambda: Lambda(attended, make=deadened(nn.Linear(3, 8), 0.7), read=nn.Linear(8, 4)), "make", True,
    ),
    "zeros that leave nothing": (
        lambda: Lambda(attended, make=deadened(nn.Linear(3, 8), 0.0), read=nn.Linear(8, 4, bias=False)), "make", True,
    ),
    "a depthwise layer behind": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 1), dead(nn.BatchNorm2d(8)), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(),
                              nn.Conv2d(8, 4, 1)), "0", True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_constant_is_found(case: str) -> None:
    torch.manual_seed(0)
    build, group, exact = CASES[case]
    error, check = compared(build(), torch.randn(2, 3, 6, 6), group)
    assert (error < 1e-12) == exact
    assert check.ok
    assert check.lost == ()


def test_a_gathered_constant_is_taken_up() -> None:
    torch.manual_seed(0)
    model = chain(bias=True, norm=False).double().eval()
    x = torch.randn(2, 3, 6, 6).double()
    graph = wb.trace(model, x, gather=["3"])
    small = graph.winnow({"3.inputs": KEPT})
    with torch.no_grad():
        assert torch.allclose(model(x), small(x), atol=1e-12)
