"""Apply: what a plan says and nothing else; repaired layer by layer, deterministic, the caller's model untouched."""

from __future__ import annotations

import copy
import math
import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from tests.models import BY_NAME, TOYS, Toy, call, difference, drawn
from workbench import Budget, Plan, Study, blocks, trace, verify
from workbench.apply import apply
from workbench.calibrate import calibrate
from workbench.cost.count import count
from workbench.graph.trace import ChannelGraph
from workbench.reconstruct import RIDGES
from workbench.repair import kept_columns, repair_layer
from workbench.select import Elimination, GroupView


@pytest.fixture(params=TOYS, ids=lambda toy: toy.name)
def toy(request: pytest.FixtureRequest) -> Toy:
    return request.param


def plan_of(graph: ChannelGraph, kept: dict[str, Any]) -> Plan:
    units = {group.name: group.units for group in graph.groups}
    whole = {name: tuple(range(count)) for name, count in units.items()}
    return Plan(
        {**whole, **{k: tuple(v) for k, v in kept.items()}}, units, Budget(macs=0.5), 0.0, 0.0, graph.fingerprint
    )


def test_the_kept_units_stay_and_the_model_is_verified(toy: Toy) -> None:
    graph = toy.graph
    model = graph.model
    kept = drawn(toy, 1)
    counts = {name: len(units) for name, units in kept.items()}
    small = apply(graph, plan_of(graph, kept), [toy.example(16)]).model
    assert (count(small, toy.example()).macs, sum(p.numel() for p in small.parameters())) == (
        toy.macs(counts), toy.params(counts),
    )  # fmt: skip
    check = verify(model, small, toy.example())
    assert check.ok, check


def test_nothing_cut_is_the_original(toy: Toy) -> None:
    graph = toy.graph
    model = graph.model
    applied = apply(graph, plan_of(graph, {}), [toy.example(8)])
    assert applied.repairs == {}
    assert applied.model is not model
    assert all(map(torch.equal, model.state_dict().values(), applied.model.state_dict().values()))


def test_the_callers_model_is_untouched(toy: Toy) -> None:
    graph = toy.graph
    model = graph.model
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    data = [toy.example(8)]
    before = copy.deepcopy(data)
    apply(graph, plan_of(graph, drawn(toy, 2)), data)
    assert model.training
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert all(map(torch.equal, pytree.tree_leaves(before), pytree.tree_leaves(data)))


def test_twice_the_same_is_byte_equal(toy: Toy) -> None:
    states = []
    for graph in (toy.graph, trace(toy.model(), toy.example())):
        small = apply(graph, plan_of(graph, drawn(toy, 3)), [toy.example(8), toy.example(8, 5)], rows=20, seed=7).model
        states.append(small.state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(map(torch.equal, states[0].values(), states[1].values()))


def test_the_repair_brings_the_output_nearer(toy: Toy) -> None:
    """On samples that it never saw, the repaired model is nearer to the original than the winnowed one, or as near."""
    graph = toy.graph
    model = copy.deepcopy(graph.model).eval()
    data, fresh = [toy.example(256, seed=11)], toy.example(128, seed=12)
    statistics = calibrate(graph, data)
    kept = {name: Elimination()(GroupView.of(graph, name, statistics)).kept(max(1, group.units - 2))
            for name, group in toy.groups.items()}  # fmt: skip
    repaired = apply(graph, plan_of(graph, kept), data).model.eval()
    with torch.no_grad():
        wanted = call(model, fresh)
        plain, mended = (_distance(wanted, call(small, fresh)) for small in (graph.winnow(kept).eval(), repaired))
    assert mended <= 1.05 * plain


def test_without_ridges_it_is_what_winnowing_gives() -> None:
    toy = BY_NAME["residual"]
    graph, kept = toy.graph, drawn(toy, 3)
    small = apply(graph, plan_of(graph, kept), [toy.example(64)], ridges=()).model
    winnowed = graph.winnow(kept).state_dict()
    assert all(torch.equal(tensor, winnowed[name]) for name, tensor in small.state_dict().items())


def test_folding_changes_biases_alone_and_lies_between() -> None:
    """Nearer to the original than removal, less near than least squares."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 8, 3), nn.Flatten(), nn.Linear(128, 4))
    graph, data, fresh = trace(model, torch.randn(2, 3, 8, 8)), torch.randn(256, 3, 8, 8), torch.randn(256, 3, 8, 8)
    plan = plan_of(graph, {group.name: range(0, group.units, 2) for group in graph.groups})
    removed, folded, fitted = (
        apply(graph, plan, [data], ridges=ridges).model for ridges in ((), (math.inf,), RIDGES)
    )  # fmt: skip
    tensors = removed.state_dict()
    assert {name for name, tensor in folded.state_dict().items() if not torch.equal(tensor, tensors[name])} == {
        "2.bias", "4.bias",
    }  # fmt: skip
    with torch.no_grad():
        worst, middle, best = (_distance(model(fresh), small(fresh)) for small in (removed, folded, fitted))
    assert best < 0.9 * middle
    assert middle < 0.9 * worst


def _distance(wanted: Any, found: Any) -> float:
    pairs = zip(pytree.tree_leaves(wanted), pytree.tree_leaves(found), strict=True)
    return sum((a - b).square().sum().item() for a, b in pairs)


def test_units_that_say_the_same_cost_nothing() -> None:
    """Twins: what one of them fed is carried by the other, so that the output stays, through two layers and a norm."""
    toy = BY_NAME["residual"]
    model = toy.model().eval()
    with torch.no_grad():
        for layer, norm in ((model.stem, model.norm), (model.conv1, model.norm1)):
            layer.weight[3] = layer.weight[0]
            for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                tensor[3] = tensor[0]
    graph = trace(model, toy.example())
    kept = {"stem": [0, 1, 2, 4, 5], "conv1": [0, 1, 2, 4, 5, 6]}
    x, fresh = toy.example(64, 3), toy.example(16, 4)
    small = apply(graph, plan_of(graph, kept), [x]).model.eval()
    with torch.no_grad():
        assert difference(model(fresh), graph.winnow(kept).eval()(fresh)) > 1e-2
        assert difference(model(fresh), small(fresh)) < 1e-3


def test_later_layers_make_good_what_earlier_ones_lost() -> None:
    """A layer that loses nothing itself is refitted where its inputs changed."""
    toy = BY_NAME["mlp"]
    graph = toy.graph
    applied = apply(graph, plan_of(graph, {"0": [0, 1, 2, 3]}), [toy.example(256)])
    assert applied.repairs.keys() == {"2", "4"}
    before, after = applied.repairs["4"].error
    assert after < before


def test_where_nothing_changed_before_it_is_the_repair_of_that_layer_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3)).double()
    graph, data = trace(model, torch.randn(2, 3, 9, 9).double()), [torch.randn(64, 3, 9, 9).double()]
    group, layer = graph["0"], graph.layers[1]
    kept = {group.name: [0, 2, 3, 7]}
    columns = kept_columns(graph, layer, kept)
    alone = repair_layer(graph, layer, columns, calibrate(graph, data).layers["2"].of(columns))
    found = apply(graph, plan_of(graph, kept), data).repairs
    assert found.keys() == {"2", "4"}
    torch.testing.assert_close(found["2"].weight, alone.weight)
    torch.testing.assert_close(found["2"].bias, alone.bias)


@pytest.mark.parametrize("widest", [8192, 10], ids=["all columns", "channel by channel"])
def test_a_decoder_is_repaired(widest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels that others make up for leave a transposed convolution at no cost; it is listed with its work."""
    monkeypatch.setattr(blocks, "WIDEST", widest)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 6, 3, 2, 1, 1), nn.ReLU(), nn.ConvTranspose2d(6, 2, 2, 2)
    ).double()
    with torch.no_grad():
        for tensor in (model[0].weight, model[0].bias):
            tensor[6:] = 2 * tensor[:2]
    graph, data = trace(model, torch.randn(2, 3, 9, 9).double()), [torch.randn(64, 3, 9, 9).double()]
    plain = apply(graph, plan_of(graph, {"0": range(6)}), data, ridges=())
    mended = apply(graph, plan_of(graph, {"0": range(6)}), data)
    assert mended.repairs["2"].error[0] > 0.05
    assert mended.repairs["2"].error[1] < 1e-9
    fresh = torch.randn(64, 3, 9, 9).double()
    with torch.no_grad():
        wanted = model(fresh)
        assert _distance(wanted, mended.model(fresh)) < 1e-6 * _distance(wanted, plain.model(fresh))
    result = Study(model, torch.randn(1, 3, 9, 9).double(), calibration=data, refinement=None).compress(
        Budget(macs=0.6)
    )
    assert result.verification.ok
    rows = {row["layer"]: row for row in result.layers()}
    assert (rows["2"]["in"][0], rows["2"]["out"][0]) == (8, 6)
    assert sum(row["macs"][1] for row in rows.values()) == result.cost.macs
    assert sum(row["macs"][0] for row in rows.values()) == graph.cost().macs


def test_a_transposed_convolution_with_groups_is_repaired() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 6, 3, 2, 1, 1, groups=2), nn.Conv2d(6, 2, 3)
    ).double()
    with torch.no_grad():
        for tensor in (model[0].weight, model[0].bias):
            tensor[[3, 7]] = 2 * tensor[[0, 4]]  # the last unit repeats the first
    graph, data = trace(model, torch.randn(2, 3, 9, 9).double()), [torch.randn(64, 3, 9, 9).double()]
    mended = apply(graph, plan_of(graph, {"0": range(3)}), data)
    assert mended.repairs["2"].error[0] > 0.05
    assert mended.repairs["2"].error[1] < 1e-9
    with torch.no_grad():
        fresh = torch.randn(64, 3, 9, 9).double()
        assert _distance(model(fresh), mended.model(fresh)) < 1e-9


class Products(nn.Module):
    """Linear layers by their products: with what is added, and plain."""

    def __init__(self, first: nn.Linear, second: nn.Linear, third: nn.Linear):
        super().__init__()
        self.first, self.added = nn.Parameter(first.weight.detach().mT.clone()), nn.Parameter(first.bias.detach())
        self.second, self.more = nn.Parameter(second.weight.detach().mT.clone()), nn.Parameter(second.bias.detach())
        self.third = nn.Parameter(third.weight.detach().mT.clone())

    def forward(self, x: Tensor) -> Tensor:
        x = torch.addmm(self.added, x, self.first).relu()
        x = torch.addmm(self.more, x, self.second).relu()
        return x @ self.third


def test_products_with_a_weight_are_layers_as_linear_ones_are() -> None:
    torch.manual_seed(0)
    linear = nn.Sequential(
        nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 4, bias=False)
    ).double()  # fmt: skip
    products = Products(linear[0], linear[2], linear[4])  # type: ignore[arg-type]  # each is an nn.Linear
    data = [torch.randn(64, 6).double()]
    graphs = [trace(model, data[0]) for model in (linear, products)]
    assert [layer.shape for layer in graphs[1].layers] == [layer.shape for layer in graphs[0].layers]
    smaller = []
    for graph in graphs:
        statistics = calibrate(graph, data)
        kept = {g.name: Elimination()(GroupView.of(graph, g.name, statistics)).kept(g.units // 2) for g in graph.groups}
        applied = apply(graph, plan_of(graph, kept), data)
        assert verify(graph.model, applied.model, data[0]).ok
        assert all(repair.error[1] < repair.error[0] for repair in applied.repairs.values())
        smaller.append(applied.model(data[0]))
    assert [*graphs[1].consumers] == ["first", "second"]
    assert difference(*smaller) < 1e-9


@pytest.mark.parametrize(
    "middle",
    [
        nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 3, groups=4), nn.Conv2d(8, 16, 3, groups=4),
        nn.ConvTranspose2d(8, 8, 3, groups=8), nn.ConvTranspose2d(8, 4, 3, groups=4),
        nn.ConvTranspose2d(8, 16, 3, groups=4), nn.ConvTranspose2d(8, 16, 3, groups=8),
    ],
    ids=repr,
)  # fmt: skip
def test_grouped_layers_are_listed_with_the_work_that_is_left(middle: nn.Conv2d) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), middle, nn.ReLU(), nn.Conv2d(middle.out_channels, 4, 1))
    study = Study(model, torch.randn(1, 3, 9, 9), calibration=[torch.randn(64, 3, 9, 9)], refinement=None)
    result = study.compress(Budget(macs=0.6))
    rows, small = {row["layer"]: row for row in result.layers()}, result.model.get_submodule("2")
    assert rows["2"]["in"] == [8, small.in_channels]
    assert rows["2"]["out"] == [middle.out_channels, small.out_channels]
    assert [sum(row["macs"][place] for row in rows.values()) for place in (0, 1)] == [
        study.graph.cost().macs, result.cost.macs,
    ]  # fmt: skip


def test_outputs_that_leave_count_for_nothing() -> None:
    """Neither in the choice of a ridge nor in the error that is told: with other weights there, all is the same."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3))
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[2].weight[3:] *= 100
        other[2].bias[3:] -= 50
    data, found = [torch.randn(64, 3, 9, 9)], []
    for one in (model, other):
        graph = trace(one, torch.randn(2, 3, 9, 9))
        found.append(apply(graph, plan_of(graph, {"0": [0, 2, 3, 7], "2": [0, 1, 2]}), data))
    one, two = (applied.repairs["2"] for applied in found)
    assert one.ridge == two.ridge
    assert one.error == pytest.approx(two.error, rel=1e-4)
    torch.testing.assert_close(one.weight, two.weight)
    torch.testing.assert_close(one.bias, two.bias)


def test_a_weight_that_two_layers_share_is_not_fitted_to_one_of_them() -> None:
    for name in ("tied", "called-twice"):
        toy = BY_NAME[name]
        graph = toy.graph
        model = graph.model
        applied = apply(graph, plan_of(graph, {"stem": [0, 2, 3, 5]}), [toy.example(64)])
        assert applied.repairs.keys() == {"head"}
        shared = [0, 2, 3, 5]
        weight = applied.model.a.weight if name == "tied" else applied.model.body.weight
        original = model.a.weight if name == "tied" else model.body.weight
        assert torch.equal(weight, original[shared][:, shared])


def test_a_plan_for_another_model() -> None:
    toy = BY_NAME["mlp"]
    graph, other = (trace(toy.model(seed), toy.example()) for seed in (0, 1))
    with pytest.raises(
        ValueError, match=r"made for the model sha256:\w+, this one is sha256:\w+; make a plan for this model"
    ):
        apply(other, plan_of(graph, {"0": [0]}), [toy.example(8)])


def test_data_that_can_be_read_once() -> None:
    toy = BY_NAME["mlp"]
    graph = toy.graph
    with pytest.raises(ValueError, match="can be read only once"):
        apply(graph, plan_of(graph, {"0": [0]}), (toy.example(8) for _ in range(2)))


def test_sizes_written_in_the_forward_are_rewritten() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 8, 1), nn.Linear(8 * 16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.conv(x).view(-1, 8 * 16))

    graph = trace(Fixed(), torch.randn(2, 3, 4, 4))
    kept = {group.name: sorted(random.Random(0).sample(range(8), 5)) for group in graph.groups}
    applied = apply(graph, plan_of(graph, kept), [torch.randn(8, 3, 4, 4)])
    assert isinstance(applied.model, torch.fx.GraphModule)
    assert applied.model(torch.randn(5, 3, 4, 4)).shape == (5, 3)
    assert verify(graph, applied.model).ok
