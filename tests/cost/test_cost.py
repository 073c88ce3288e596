"""Costs counted on models equal the formulas of the table, before and after winnowing."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tests.models import TOYS, Toy, call, drawn
from workbench.cost.count import Cost, count
from workbench.cost.sizes import Product, Share, Size, multiplied, products, sizes_of
from workbench.cost.work import work_products
from workbench.graph.trace import ChannelGraph, trace


@pytest.fixture(params=TOYS, ids=lambda toy: toy.name)
def toy(request: pytest.FixtureRequest) -> Toy:
    return request.param


def test_macs_and_params_equal_the_formulas(toy: Toy) -> None:
    for batch in (1, 3):
        cost = count(toy.model(), toy.example(batch))
        assert (cost.macs, cost.params) == (toy.macs(toy.whole), toy.params(toy.whole))
        assert cost.not_counted == ()


def test_layers_sum_to_the_counted_macs(toy: Toy) -> None:
    graph, inputs = toy.graph, toy.example(1)
    model = copy.deepcopy(graph.model).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        call(model, inputs)
    assert 2 * _macs(graph, toy.whole) == flops.get_total_flops()
    assert graph.cost() == count(model, toy.example(2))


def test_size_formulas_equal_the_winnowed_model(toy: Toy) -> None:
    graph = toy.graph
    sizes = sizes_of(graph)
    for seed in range(3):
        kept = drawn(toy, seed)
        counts = {name: len(units) for name, units in kept.items()}
        small = graph.winnow(kept)
        cost = count(small, toy.example())
        assert cost.macs == toy.macs(counts) == _macs(graph, counts)
        assert (
            cost.params
            == toy.params(counts)
            == sum(_value(products(name, tensor.shape, sizes), counts) for name, tensor in graph.parameters.items())
        )
        state = small.state_dict()
        for (tensor, dim), size in sizes.items():
            assert state[tensor].shape[dim] == size.at(counts)


def _macs(graph: ChannelGraph, kept: dict[str, int]) -> int:
    return sum(_value(parts, kept) for _, parts in work_products(graph, {}))


def _value(parts: list[Product], kept: dict[str, int]) -> int:
    return sum(part.at(kept) for part in parts)


def test_products_multiply_out() -> None:
    once, twice, thrice = (tuple(range(0, 8 * each, each)) for each in (1, 2, 3))
    factors = [Size(2, (Share("a", thrice),)), Size(0, (Share("a", once), Share("b", twice))), Size(9), Size(5)]
    for kept in ({"a": 1, "b": 1}, {"a": 4, "b": 7}):
        whole = (2 + 3 * kept["a"]) * (kept["a"] + 2 * kept["b"]) * 9 * 5
        assert _value(multiplied(factors), kept) == whole


class Halves(nn.Module):
    """One layer whose halves are read by different layers: its units do not hold equally many indices."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.left, self.right = nn.Linear(3, 8), nn.Linear(4, 6), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        left, right = self.wide(x).relu().split([4, 4], 1)
        return self.left(left), self.right(right)


def test_sizes_follow_the_order_in_which_units_leave() -> None:
    graph = trace(Halves(), torch.zeros(1, 3))
    (group,) = graph.groups
    sizes = sizes_of(graph, {group.name: range(8)})  # the left half leaves first
    for kept in range(1, 9):
        assert sizes["wide.weight", 0].at({"wide": kept}) == kept
        assert sizes["left.weight", 1].at({"wide": kept}) == max(0, kept - 4)
        assert sizes["right.weight", 1].at({"wide": kept}) == min(4, kept)


def test_activation_bytes() -> None:
    cost = count(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(1, 4))
    assert cost.activation_bytes == 4 * (8 + 8 + 2)  # float32
    assert count(nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True)), torch.zeros(1, 4)).activation_bytes == 4 * 8
    assert count(nn.Linear(4, 8, bias=False), torch.zeros(1, 3, 4)).activation_bytes == 4 * 3 * 8  # and a view of it


def test_size_bytes_are_those_of_parameters_and_buffers() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8).double())
    assert count(model[:1], torch.zeros(1, 4)).size_bytes == 4 * (4 * 8 + 8)
    assert count(model[1:], torch.zeros(2, 8).double()).size_bytes == 8 * 4 * 8 + 8  # and the int64 of batches seen


def test_attention_is_counted_whatever_kernel_runs() -> None:
    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(x, x, x)

    assert count(Attention(), torch.zeros(1, 2, 5, 8)).macs == 2 * 2 * 5 * 5 * 8
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    assert count(layer, torch.zeros(1, 5, 8)).macs == 5 * (4 * 8 * 8 + 2 * 8 * 16) + 2 * 5 * 5 * 8


def test_what_cannot_be_counted_is_named() -> None:
    class Spectrum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.rfft(x).real

    cost = count(Spectrum(), torch.zeros(1, 8))
    assert cost.macs == 0
    assert any("fft" in name for name in cost.not_counted)


def test_counting_leaves_no_trace() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout()).train()
    before = torch.backends.mha.get_fastpath_enabled()
    count(model, torch.zeros(2, 4))
    assert model.training
    assert model[0].weight.device.type == "cpu"
    assert torch.backends.mha.get_fastpath_enabled() is before
    assert torch.empty(1).device.type == "cpu"


def test_a_cost_prints_itself() -> None:
    cost = Cost(12_345_678, 65_432, 100, 50, 400, ("aten.fft",))
    assert repr(cost) == "Cost(12.35 M MACs, 0.065 M parameters)"
    assert cost.to_dict()["not_counted"] == ["aten.fft"]


def test_a_forward_that_looks_at_values_is_run_for_real() -> None:
    class Looking(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) if x.sum().item() < 1e9 else x

    assert count(Looking(4, 8), torch.zeros(2, 4)).macs == 32
