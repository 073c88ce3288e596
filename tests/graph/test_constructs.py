"""Every construct is exact (or approximate, with the norm named), with the units that it must have."""

from __future__ import annotations

import copy
import random
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from tests.graph.constructs import CONSTRUCTS, Construct
from workbench import trace, verify
from workbench.cost.count import count
from workbench.cost.work import work_products
from workbench.graph.inputs import Inputs
from workbench.graph.trace import ChannelGraph

# PyTorch warns of how it exports its own recurrent layers
pytestmark = pytest.mark.filterwarnings("ignore:The tensor attributes .* were assigned during export")


@pytest.fixture(params=CONSTRUCTS, ids=lambda construct: construct.name)
def construct(request: pytest.FixtureRequest) -> Construct:
    return request.param


@cache
def traced(construct: Construct) -> ChannelGraph:
    """The trace of a construct, shared by all tests: the export is what costs time."""
    torch.manual_seed(0)
    return trace(construct.build().eval(), construct.inputs(2))


def draws(graph: ChannelGraph) -> list[dict[str, list[int]]]:
    """Random units of all groups together, then each group alone without its first unit."""
    rng = random.Random(0)
    several = [
        {g.name: sorted(rng.sample(range(g.units), rng.randint(1, g.units))) for g in graph.groups} for _ in range(3)
    ]
    return [*several, *({g.name: list(range(1, g.units))} for g in graph.groups)]


def tensors(output: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


def test_units(construct: Construct) -> None:
    graph = traced(construct)
    assert {g.name + "*" * bool(g.approximate): g.units for g in graph.groups} == construct.units
    assert all(frozen.reason.why and frozen.reason.remedy for frozen in graph.frozen)


def test_exact_at_a_second_batch_size(construct: Construct) -> None:
    graph = traced(construct)
    for kept in draws(graph):
        check = verify(graph, graph.winnow(kept), construct.inputs(4))
        assert check.ok, (kept, check)


def test_train_mode_has_gradients(construct: Construct) -> None:
    graph = traced(construct)
    for kept in draws(graph)[:1]:
        small = graph.winnow(kept).train()
        torch.manual_seed(1)
        outputs = tensors(Inputs.of(construct.inputs(4))(small))
        sum(output.sum() for output in outputs if output.is_floating_point()).backward()  # type: ignore[union-attr]
        reached = [p.grad is not None for p in small.parameters()]
        torch.manual_seed(1)
        dense = copy.deepcopy(graph.model).train()
        outputs = tensors(Inputs.of(construct.inputs(4))(dense))
        sum(output.sum() for output in outputs if output.is_floating_point()).backward()  # type: ignore[union-attr]
        names = {name for name, p in dense.named_parameters() if p.grad is not None}
        assert sum(reached) == len(names & {name for name, _ in small.named_parameters()})


def test_costs_are_predicted(construct: Construct) -> None:
    graph = traced(construct)
    parts = [part for _, parts in work_products(graph, {}) for part in parts]
    whole = {group.name: group.units for group in graph.groups}
    assert sum(part.at(whole) for part in parts) == graph.cost().macs
    halves = {group.name: list(range((group.units + 1) // 2)) for group in graph.groups}
    kept = {name: len(units) for name, units in halves.items()}
    assert sum(part.at(kept) for part in parts) == count(graph.winnow(halves), construct.inputs(2)).macs


def test_the_callers_model_is_untouched(construct: Construct) -> None:
    graph = traced(construct)
    state = copy.deepcopy(graph.model.state_dict())
    graph.winnow(draws(graph)[0])
    assert all(torch.equal(state[name], tensor) for name, tensor in graph.model.state_dict().items())
