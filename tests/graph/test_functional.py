"""The functional program computes what the model does, however the model writes into its tensors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.models import Lambda
from workbench.graph import functional
from workbench.graph.inputs import Inputs
from workbench.graph.program import Program, export

Forward = Callable[[nn.Module, Tensor], Tensor]


def in_place(m: nn.Module, x: Tensor) -> Tensor:
    x = m.a(x).relu_()
    x += m.b(x)
    return x.mul_(2)


def seen_before(m: nn.Module, x: Tensor) -> Tensor:
    x = m.a(x)
    before = x.sum(1)
    x.add_(1)
    return before + x.sum(1)


def seen_through_a_view(m: nn.Module, x: Tensor) -> Tensor:
    x = m.a(x)
    whole = x.flatten(1)
    x.relu_()
    return whole * 2


def a_part(m: nn.Module, x: Tensor) -> Tensor:
    x = m.a(x)
    x[:, :2] = 0.5
    x[:, 2:4] += 1
    return m.b(x)


def the_result(m: nn.Module, x: Tensor) -> Tensor:
    x = m.a(x)
    y = x.relu_()
    x.sub_(0.25)
    return x + y


def the_input(m: nn.Module, x: Tensor) -> Tensor:
    x.mul_(0.5)
    return m.a(x) + x[:, :1]


def other_types(m: nn.Module, x: Tensor) -> Tensor:
    counts = torch.ones(4, dtype=torch.int32)
    counts += torch.ones(4, dtype=torch.int64)
    return m.a(x) * counts[:, None, None]


def composites(m: nn.Module, x: Tensor) -> Tensor:
    x = m.a(x).diff(dim=2)
    return torch.cosine_similarity(x, x.roll(1, 3), dim=2)


FAST = (in_place, seen_before, the_result, the_input)
SLOW = (seen_through_a_view, a_part, other_types, composites)


def exported(forward: Forward) -> tuple[nn.Module, Program]:
    torch.manual_seed(0)
    model = Lambda(forward, a=nn.Conv2d(4, 4, 1), b=nn.Conv2d(4, 4, 1)).eval()
    return model, export(model, Inputs.of(torch.randn(2, 4, 3, 3)))


@pytest.mark.parametrize("forward", [*FAST, *SLOW], ids=lambda forward: forward.__name__)
def test_it_computes_what_the_model_does(forward: Forward) -> None:
    model, program = exported(forward)
    x = torch.randn(3, 4, 3, 3)
    before = x.clone()
    with torch.no_grad():
        found = program(Inputs.of(x))
        assert torch.equal(x, before)  # nothing writes, not even into the input
        assert torch.allclose(model(x), found)
    assert not any(node.target._schema.is_mutable for node in program.nodes if hasattr(node.target, "_schema"))


@pytest.mark.parametrize("forward", FAST, ids=lambda forward: forward.__name__)
def test_what_nobody_else_sees_is_done_in_place(forward: Forward, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("taken apart by PyTorch")

    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", never)
    exported(forward)


def test_an_op_without_a_rule_is_taken_apart() -> None:
    assert not functional.known("cosine_similarity")
    _, program = exported(composites)
    assert all(functional.known(functional.op_name(node)) for node in program.nodes)
