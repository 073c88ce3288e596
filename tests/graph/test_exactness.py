"""Winnowed equals the original with the removed units zeroed, for every toy and random units of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from tests.models import BY_NAME, TOYS, Lambda, Toy, call, difference, drawn, zeroed
from workbench import Refused, trace, verify
from workbench.graph.record import Cut, Record, remember
from workbench.graph.trace import ChannelGraph
from workbench.graph.winnow import cut_model

EXACT = 1e-10


@pytest.fixture(params=TOYS, ids=lambda toy: toy.name, scope="module")
def toy(request: pytest.FixtureRequest) -> Toy:
    return request.param


@pytest.fixture(scope="module")
def graph(toy: Toy) -> ChannelGraph:
    return toy.graph


def test_the_groups_are_those_of_the_table(toy: Toy, graph: ChannelGraph) -> None:
    assert {group.name: group.units for group in graph.groups} == toy.whole
    assert all(not group.approximate for group in graph.groups)


@pytest.mark.parametrize("seed", range(4))
def test_all_groups_together(toy: Toy, graph: ChannelGraph, seed: int) -> None:
    kept = drawn(toy, seed)
    small = graph.winnow(kept).eval()
    for batch in (1, 3):
        inputs = toy.example(batch, seed=batch)
        with torch.no_grad():
            assert difference(zeroed(toy, graph.model, kept, inputs), call(small, inputs)) <= EXACT


def test_each_unit_of_each_group_alone(toy: Toy, graph: ChannelGraph) -> None:
    inputs = toy.example(2)
    for name, group in toy.groups.items():
        for gone in range(group.units):
            kept = {name: [unit for unit in range(group.units) if unit != gone]}
            with torch.no_grad():
                found = call(graph.winnow(kept).eval(), inputs)
            assert difference(zeroed(toy, graph.model, kept, inputs), found) <= EXACT, (name, gone)


def test_the_removed_units_mattered(toy: Toy, graph: ChannelGraph) -> None:
    """Were the oracle to zero nothing, or the units to do nothing, the tests above would prove nothing."""
    inputs = toy.example(2)
    kept = {name: [0] for name in toy.groups}
    whole = zeroed(toy, graph.model, {}, inputs)
    assert difference(whole, zeroed(toy, graph.model, kept, inputs)) > 1e-3


def test_verify_agrees(toy: Toy, graph: ChannelGraph) -> None:
    small = graph.winnow(drawn(toy, 5))
    check = verify(graph.model, small, toy.example())
    assert check.ok, check


def test_verify_sees_channels_out_of_order() -> None:
    """Rolled channels, cut without winnow's own check: the compact tensor rolled by 3 is another tensor."""
    layers = {"wide": nn.Conv2d(3, 16, 1), "out": nn.Conv2d(16, 4, 1)}
    model = Lambda(lambda m, x: m.out(torch.roll(m.wide(x), 3, 1)), **layers).double()
    example = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    kept = (0, 1, 2, 5, 8, 13, 15)
    read = tuple(sorted((index + 3) % 16 for index in kept))
    cuts = (
        Cut("wide.weight", 0, 16, kept, "out"),
        Cut("wide.bias", 0, 16, kept, "out"),
        Cut("out.weight", 1, 16, read, "in"),
    )
    check = verify(model, remember(cut_model(model, cuts), Record(cuts)), example)
    assert not check.ok
    assert check.worst > 1e-3
    assert "NOT ok" in repr(check)


def test_the_callers_model_is_untouched(toy: Toy) -> None:
    model, inputs = toy.model(), toy.example()
    last = [module for module in model.modules() if module is not model][-1]
    last.eval()
    calls: list[int] = []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    attributes = [{k: v for k, v in vars(m).items() if isinstance(v, int | str)} for m in model.modules()]
    given = [leaf.clone() for leaf in pytree.tree_leaves(inputs)]
    graph = trace(model, inputs)
    graph.winnow(drawn(toy, 0))
    graph.cost()
    assert [module.training for module in model.modules()] == modes
    assert [{k: v for k, v in vars(m).items() if isinstance(v, int | str)} for m in model.modules()] == attributes
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert all(map(torch.equal, given, pytree.tree_leaves(inputs)))
    assert list(model._forward_hooks) == [handle.id]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_backward_in_train_mode(toy: Toy, graph: ChannelGraph) -> None:
    small = graph.winnow(drawn(toy, 1))
    assert type(small) is type(graph.model)
    small.train()
    loss = sum(leaf.square().sum() for leaf in pytree.tree_leaves(call(small, toy.example(3))))
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in small.named_parameters()}
    assert all(grad is not None and grad.shape == small.get_parameter(name).shape for name, grad in gradients.items())
    assert all(torch.isfinite(grad).all() for grad in gradients.values())
    assert all(parameter.grad is None for parameter in graph.model.parameters())


def test_attributes_tell_the_sizes_of_the_tensors(toy: Toy, graph: ChannelGraph) -> None:
    for module in graph.winnow(drawn(toy, 2)).modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            assert (module.out_channels, module.in_channels // module.groups) == module.weight.shape[:2]
            assert module.out_channels % module.groups == module.in_channels % module.groups == 0
        if isinstance(module, nn.Linear):
            assert (module.out_features, module.in_features) == module.weight.shape
        if isinstance(module, nn.modules.batchnorm._NormBase):
            assert module.num_features == len(module.running_mean)
        if isinstance(module, nn.PReLU):
            assert module.num_parameters == len(module.weight)


def test_tied_weights_stay_one_object() -> None:
    toy = next(toy for toy in TOYS if toy.name == "tied")
    small = toy.graph.winnow({"stem": [1, 4]})
    assert small.a.weight is small.b.weight


def test_whole_groups_change_nothing(toy: Toy, graph: ChannelGraph) -> None:
    small = graph.winnow({name: range(group.units) for name, group in toy.groups.items()})
    assert all(
        torch.equal(a, b) for a, b in zip(graph.model.state_dict().values(), small.state_dict().values(), strict=True)
    )
    assert small is not graph.model


@pytest.mark.parametrize("name", ["residual", "grouped", "flatten", "tied"])
def test_a_winnowed_model_can_be_winnowed_again(name: str) -> None:
    toy = BY_NAME[name]
    once = toy.graph.winnow(drawn(toy, 6))
    again = trace(once, toy.example())
    kept = {group.name: [group.units - 1] for group in again.groups}
    assert verify(once, again.winnow(kept), toy.example()).ok


@pytest.mark.parametrize(
    ("kept", "error", "words"),
    [
        ({"no": [0]}, KeyError, "no channel group 'no'; the groups are 0, 2"),
        ({"0": []}, ValueError, "group '0' would lose all its 8 units; keep at least one"),
        ({"0": [0, 8]}, ValueError, "group '0' has units 0 to 7, not 8"),
        ({"0": [-1]}, ValueError, "group '0' has units 0 to 7, not -1"),
    ],
)
def test_bad_units_are_refused_in_a_sentence(kept: dict[str, list[int]], error: type[Exception], words: str) -> None:
    toy = TOYS[0]
    with pytest.raises(error, match=words):
        toy.graph.winnow(kept)


@pytest.mark.parametrize("bad", [[torch.zeros(1, 3)], "images", None, 3])
def test_inputs_of_another_kind(bad: object) -> None:
    with pytest.raises(TypeError, match=r"a tensor, a tuple \(positional\) or a dict \(keyword\), not"):
        trace(nn.Linear(3, 2), bad)


def test_a_model_that_cannot_be_exported() -> None:
    class Branching(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) if x.sum() > 0 else x

    model = Branching(3, 2).train()
    with pytest.raises(Refused, match=r"torch.export in Branching: it cannot follow the forward .*; .*submodule="):
        trace(model, torch.zeros(2, 3))
    assert model.training


class Scaled(nn.Module):
    """Divides by what the width says, as attention does."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(8, 64), nn.Linear(64, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.inner(x)
        return self.outer(x) * x.shape[-1] ** -0.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_scale_stays_that_of_the_original_in_any_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model, x = Scaled().to(dtype), torch.randn(4, 8).to(dtype)
    graph = trace(model, x)
    small = graph.winnow({"inner": range(60)})  # the scale of 60 is off by 3 %
    assert verify(graph, small).ok
    masked = model.outer.weight.clone()
    masked[:, 60:] = 0
    wanted = (model.inner(x) @ masked.mT + model.outer.bias) * 64**-0.5
    torch.testing.assert_close(small(x), wanted)
