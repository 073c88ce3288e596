"""Random architectures: the winnowed model is the original with zeros where removed channels would be read."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

from tests.graph.random_models import (
    STEPS,
    Convolution,
    Depthwise,
    Order,
    Pad,
    Pool,
    RandomModel,
    Residual,
    Split,
    Step,
    Written,
)  # fmt: skip
from workbench import Refused, trace
from workbench.cost.count import count
from workbench.cost.work import work_products
from workbench.graph.record import recorded
from workbench.graph.trace import ChannelGraph
from workbench.graph.winnow import record_of

# PyTorch warns of how it exports its own recurrent layers
pytestmark = pytest.mark.filterwarnings("ignore:The tensor attributes .* were assigned during export")

Steps = list[tuple[type[Step], int]]


def drawn(graph: ChannelGraph, draw: random.Random) -> dict[str, list[int]]:
    """Units to keep of every exact group, one of each set of which one must stay among them.

    A group is left whole where a layer would read nothing any more, which several groups can bring about together.
    """
    kept = {g.name: set(draw.sample(range(g.units), draw.randint(1, g.units))) for g in graph.exact}
    for group in graph.exact:
        for some in group.one_of:
            if not kept[group.name] & set(some):
                kept[group.name].add(draw.choice(some))
    found: dict[str, list[int]] = {}
    for name, units in kept.items():
        found[name] = sorted(units)
        try:
            record_of(graph, found)
        except Refused:
            found[name] = list(range(graph[name].units))
    return found


def zeroed(model: nn.Module, small: nn.Module, x: Tensor) -> Tensor:
    """The original's own forward with zeros in the weights that would read what left."""
    record = recorded(small)
    assert record is not None
    state = dict(model.state_dict())
    for cut in record.cuts:
        if cut.role == "in":
            state[cut.tensor] = state[cut.tensor].index_fill(cut.dim, torch.tensor(cut.removed), 0)
    return functional_call(model, state, (x,))  # type: ignore[no-any-return]


def check(steps: Steps, seed: int) -> None:
    torch.manual_seed(seed)
    model = RandomModel(steps).double().eval()
    graph = trace(model, torch.randn(2, 2, 4, 4).double())
    kept = drawn(graph, random.Random(seed))
    small, x = graph.winnow(kept), torch.randn(3, 2, 4, 4).double()
    with torch.no_grad():
        expected, found = zeroed(model, small, x), small(x)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-9 * expected.abs().max(), graph.groups
    stay = {group.name: kept.get(group.name, range(group.units)) for group in graph.groups}
    orders = {g.name: [*(set(range(g.units)) - set(stay[g.name])), *stay[g.name]] for g in graph.groups}
    counts = {name: len(units) for name, units in stay.items()}
    parts = [part for _, parts in work_products(graph, orders) for part in parts]
    assert sum(part.at(counts) for part in parts) == count(small, x).macs


steps = st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 2**16)), min_size=1, max_size=9)
options = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}


DEAD = [(Pool, 9008), (Residual, 54), (Written, 0), (Depthwise, 0)]  # what differs is behind a ReLU that gives zeros


@example(steps=DEAD, seed=0)
@settings(max_examples=200, derandomize=True, **options)
@given(steps=steps, seed=st.integers(0, 2**16))
def test_winnowed_equals_zeroed(steps: Steps, seed: int) -> None:
    check(steps, seed)


# no layer reads what one group keeps, nor what the other does
APART = [*[(Convolution, 0)] * 3, (Residual, 1), (Pad, 832), (Order, 9199), *[(Convolution, 0)] * 2, (Split, 1)]


@pytest.mark.slow
@example(steps=APART, seed=198)
@settings(max_examples=1500, derandomize=True, **options)
@given(steps=steps, seed=st.integers(0, 2**16))
def test_winnowed_equals_zeroed_many_times(steps: Steps, seed: int) -> None:
    check(steps, seed)
