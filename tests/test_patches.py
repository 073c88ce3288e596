"""The rows that a layer reads, times its weight, are its output."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from workbench import trace
from workbench.patches import Patches

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def product(layer: nn.Module, inputs: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Rows times weight plus bias, and the layer's outputs at the same places, both [groups, rows, out / groups]."""
    graph = trace(layer, inputs)
    patches = Patches.of(graph.layers[0], graph.program)
    outputs = layer(inputs).detach()
    positions = patches.positions(outputs, count, torch.Generator().manual_seed(0))
    weight = layer.weight.detach().flatten(1).unflatten(0, (patches.groups, -1))
    made = patches.rows(inputs, positions) @ weight.mT + layer.bias.detach().view(patches.groups, 1, -1)
    return made, patches.targets(outputs, positions)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=st.data())
def test_rows_times_weight_is_the_output(data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, 3))
    each: Any = lambda low, high: tuple(data.draw(st.integers(low, high)) for _ in range(rank))  # noqa: E731
    groups, kernel, dilation = data.draw(st.sampled_from((1, 2, 4))), each(1, 3), each(1, 2)
    same = data.draw(st.sampled_from((False, False, "same", "valid")))
    odd = all(gap * (size - 1) % 2 == 0 for size, gap in zip(kernel, dilation, strict=True))
    assume(same != "same" or odd)  # even kernels make PyTorch warn; they have a test of their own
    layer = CONVOLUTIONS[rank - 1](
        4,
        8,
        kernel,
        padding=same or each(0, 2),
        stride=1 if same == "same" else each(1, 2),
        dilation=dilation,
        groups=groups,
    ).double()
    inputs = torch.randn(2, 4, *each(5, 7), dtype=torch.float64)
    made, wanted = product(layer, inputs, data.draw(st.sampled_from((1, 7, 10_000))))
    torch.testing.assert_close(made, wanted, rtol=1e-10, atol=1e-10)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=st.data())
def test_of_transposed_convolutions_too(data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, 3))
    each: Any = lambda low, high: tuple(data.draw(st.integers(low, high)) for _ in range(rank))  # noqa: E731
    kernel, stride, dilation = each(1, 4), each(1, 3), each(1, 2)
    padding = tuple(min(p, gap * (k - 1) + 1) for p, gap, k in zip(each(0, 3), dilation, kernel, strict=True))
    more = tuple(min(extra, max(s, d) - 1) for extra, s, d in zip(each(0, 2), stride, dilation, strict=True))
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[rank - 1]
    groups = data.draw(st.sampled_from((1, 2, 4)))
    layer = kind(4, 8, kernel, stride, padding, more, groups=groups, dilation=dilation).double()
    inputs = torch.randn(2, 4, *each(4, 6), dtype=torch.float64)
    graph = trace(layer, inputs)
    turned = graph.layers[0].turned(layer.weight.detach())
    torch.testing.assert_close(graph.layers[0].turned(turned), layer.weight.detach())
    patches, outputs = Patches.of(graph.layers[0], graph.program), layer(inputs).detach()
    positions = patches.positions(outputs, data.draw(st.sampled_from((1, 7, 10_000))), torch.Generator())
    made = patches.rows(inputs, positions) @ turned.flatten(1).unflatten(0, (groups, -1)).mT
    made += layer.bias.detach().view(groups, 1, -1)
    torch.testing.assert_close(made, patches.targets(outputs, positions), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("groups", [1, 2])
def test_rows_of_some_channels_are_those_columns(groups: int) -> None:
    inputs = torch.randn(3, 8, 6, 5)
    patches = Patches.of_module(nn.Conv2d(8, 4, (2, 3), stride=2, padding=1, groups=groups))
    positions, columns = torch.tensor([0, 3, 5]), [*range(6), *range(12, 24)]  # channels 0, 2 and 3 of each group
    assert torch.equal(patches.rows(inputs, positions, columns), patches.rows(inputs, positions)[..., columns])
    linear = Patches.of_module(nn.Linear(5, 4))
    assert torch.equal(linear.rows(inputs, positions, [1, 4]), linear.rows(inputs, positions)[..., [1, 4]])


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("dilation", [1, 3])
def test_same_padding_of_an_even_kernel_is_lopsided(dilation: int) -> None:
    layer = nn.Conv2d(2, 3, (2, 4), padding="same", dilation=dilation).double()
    made, wanted = product(layer, torch.randn(2, 2, 9, 10, dtype=torch.float64), 1000)
    torch.testing.assert_close(made, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", [(3, 5), (3, 4, 5), (2, 3, 4, 5)])
def test_linear_layers_read_features(shape: tuple[int, ...]) -> None:
    layer = nn.Linear(5, 7).double()
    for count in (2, 100):
        made, wanted = product(layer, torch.randn(*shape, dtype=torch.float64), count)
        torch.testing.assert_close(made, wanted, rtol=1e-10, atol=1e-10)


def test_positions_are_drawn_without_repeats_and_in_order() -> None:
    graph = trace(nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 6, 6))
    patches = Patches.of(graph.layers[0], graph.program)
    draws = [patches.positions(torch.zeros(2, 1, 6, 6), 9, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    for draw in draws:
        assert len(draw) == 9
        assert torch.equal(draw, draw.unique())
        assert 0 <= draw.min() <= draw.max() < 36
    assert torch.equal(patches.positions(torch.zeros(2, 1, 6, 6), 36, torch.Generator()), torch.arange(36))
