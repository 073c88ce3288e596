"""Verification: a faithful model passes, a tampered one does not, and a stranger is refused."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.models import BY_NAME, drawn
from workbench import Verification, trace, verify
from workbench.graph.comparison import relative_error, widened
from workbench.graph.masked import masked
from workbench.graph.record import recorded
from workbench.verification import LOOSE, TOLERANCE


def pair(name: str = "residual") -> tuple[nn.Module, nn.Module, torch.Tensor]:
    toy = BY_NAME[name]
    return toy.graph.model, toy.graph.winnow(drawn(toy, 0)), toy.example()


def _forget_norm(small: nn.Module) -> None:
    small.norm1.eps = 0.1


def _extra(small: nn.Module) -> None:
    small.conv2.register_forward_hook(lambda layer, inputs, output: output.flip(1))


def _not_a_number(small: nn.Module) -> None:
    small.head.register_forward_hook(lambda layer, inputs, output: output * math.nan)


@pytest.mark.parametrize("tamper", [_forget_norm, _extra, _not_a_number])
def test_a_tampered_model_is_not_verified(tamper: Callable[[nn.Module], None]) -> None:
    model, small, inputs = pair()
    assert verify(model, small, inputs).ok
    tamper(small)
    check = verify(model, small, inputs)
    assert not check.ok
    assert not check.worst <= TOLERANCE


def test_the_worst_layer_is_named() -> None:
    model, small, inputs = pair()
    small.conv2.register_forward_hook(lambda layer, inputs, output: output * 2)
    assert verify(model, small, inputs).layer in ("conv2", "conv3", "conv4", "head")
    assert "NOT ok" in repr(verify(model, small, inputs))


def test_neither_model_is_changed() -> None:
    model, small, inputs = pair()
    model.train()
    states = [{name: tensor.clone() for name, tensor in m.state_dict().items()} for m in (model, small)]
    verify(model, small, inputs)
    for m, state in zip((model, small), states, strict=True):
        assert m.training
        assert all(torch.equal(state[name], tensor) for name, tensor in m.state_dict().items())
        assert all(not layer._forward_hooks for layer in m.modules())


def test_float32_models_are_verified_in_float64() -> None:
    toy = BY_NAME["residual"]
    model = toy.model().float()
    x = toy.example().float()
    check = verify(model, trace(model, x).winnow(drawn(toy, 0)), x)
    assert check.ok
    assert check.worst < 1e-12


def test_a_model_that_was_not_made_here_is_refused() -> None:
    with pytest.raises(
        ValueError, match="this Linear has no record of what was removed; verify takes a model from winnow"
    ):
        verify(nn.Linear(3, 2), nn.Linear(3, 2), torch.zeros(2, 3))


def test_the_original_takes_the_smaller_values_and_zeros_where_a_layer_reads_what_left() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    graph = trace(model, torch.randn(2, 3))
    small = graph.winnow({"0": [1, 3]})
    nn.init.normal_(small[2].weight)  # as a repair would change it
    record = recorded(small)
    assert record is not None
    tensors = masked(widened(graph, small.state_dict(), record), record.cuts)
    assert torch.equal(tensors["2.weight"][:, [1, 3]], small[2].weight)
    assert not tensors["2.weight"][:, [0, 2]].any()
    assert torch.equal(tensors["0.weight"], model[0].weight)


def test_relative_error() -> None:
    a = torch.tensor([1.0, -4.0])
    assert relative_error(a, a + 0.4) == pytest.approx(0.1)
    assert relative_error(a, a[:1]) == math.inf
    assert math.isnan(relative_error(a, a * math.nan))
    assert relative_error(torch.zeros(0), torch.zeros(0)) == 0
    assert relative_error(torch.zeros(2), torch.zeros(2)) == 0


def test_a_verification_prints_itself() -> None:
    check = Verification(True, 1.234e-13, "")
    assert repr(check) == "Verification(ok: worst 1.2e-13 at the output, allowed 1e-10)"
    values = {"ok": True, "worst": 1.234e-13, "layer": "", "tolerance": 1e-10, "approximate": [], "lost": []}
    assert check.to_dict() == values


class Insists(nn.Module):
    """A forward that asks for its own precision, or does without any other."""

    def __init__(self, strict: bool):
        super().__init__()
        self.first, self.second, self.strict = nn.Linear(5, 8), nn.Linear(8, 3), strict

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.strict and self.first.weight.dtype != torch.float32:
            raise RuntimeError("float32 or nothing")
        return self.second(self.first(x.to(torch.float32)).relu())


def test_a_forward_that_asks_for_its_precision_is_compared_in_double() -> None:
    model, inputs = Insists(strict=False), torch.randn(2, 5)
    check = verify(model, trace(model, inputs).winnow({"first": range(5)}), inputs)
    assert check.ok
    assert check.tolerance == TOLERANCE


def test_a_forward_that_runs_in_its_own_precision_only_is_compared_there() -> None:
    model, inputs = Insists(strict=True), torch.randn(2, 5)
    small = trace(model, inputs).winnow({"first": range(5)})
    check = verify(model, small, inputs)
    assert check.ok
    assert check.tolerance == LOOSE
    small.first.register_forward_hook(lambda layer, inputs, output: output * 1.01)
    assert not verify(model, small, inputs).ok


def test_a_float32_model_is_compared_in_double() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 4, 1)).eval()
    inputs = torch.randn(2, 3, 5, 5)
    check = verify(model, trace(model, inputs).winnow({"0": range(5)}), inputs)
    assert check.tolerance == TOLERANCE
    assert check.ok


def test_constant_inputs_hide_nothing() -> None:
    model = nn.Sequential(nn.Linear(5, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False))
    zeros = torch.zeros(2, 5)
    small = trace(model, zeros).winnow({"0": range(5)})
    assert verify(model, small, zeros).ok
    small[0].register_forward_hook(lambda layer, inputs, output: output.flip(1))
    assert not verify(model, small, zeros).ok


@pytest.mark.parametrize("made", ["attribute", "in the forward"])
def test_what_has_its_own_precision_is_compared_in_float64_too(made: str) -> None:
    class Offset(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.mix = nn.Linear(4, 6), nn.Linear(6, 2), torch.linspace(0, 1, 9).view(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            mix = self.mix if made == "attribute" else torch.linspace(0, 1, 9).view(3, 3)
            return self.b(mix @ torch.sin(self.a(x)))

    model, x = Offset().eval(), torch.randn(2, 3, 4)
    check = verify(model, trace(model, x).winnow({"a": [0, 2, 5]}), x)
    assert check.ok
    assert check.tolerance == 1e-10
