"""A program takes the model's inputs by name or place, at other sizes or not at all."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import workbench as wb
from workbench.graph.inputs import Inputs

LEFT, RIGHT = torch.randn(2, 8, 6, generator=torch.Generator().manual_seed(0))


class Minus(nn.Module):
    """Whose inputs cannot be taken for each other."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.out = nn.Linear(6, 12), nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        out: Tensor = self.out(self.a(left).relu() - self.b(right).relu())
        return out


class Nested(Minus):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:  # type: ignore[override]
        return super().forward(batch["left"], batch["right"])


WAYS = {
    "by place": (LEFT, RIGHT), "by name": {"left": LEFT, "right": RIGHT}, "turned": {"right": RIGHT, "left": LEFT},
}  # fmt: skip


@pytest.mark.parametrize("traced", WAYS)
@pytest.mark.parametrize("given", WAYS)
def test_inputs_go_where_their_names_say(traced: str, given: str) -> None:
    model, inputs = Minus().eval(), Inputs.of(WAYS[given])
    program = wb.trace(model, WAYS[traced]).program
    assert torch.allclose(program(inputs), inputs(model))


def test_dicts_within_inputs_have_no_order() -> None:
    model = Nested().eval()
    program = wb.trace(model, {"batch": {"left": LEFT, "right": RIGHT}}).program
    inputs = Inputs.of({"batch": {"right": RIGHT, "left": LEFT}})
    assert torch.allclose(program(inputs), inputs(model))


def test_names_that_the_forward_has_not() -> None:
    graph = wb.trace(Minus(), (LEFT, RIGHT))
    with pytest.raises(ValueError, match=r"traced with 2 inputs \(left, right\), not with foo; give batches of"):
        graph.program(Inputs.of({"left": LEFT, "foo": RIGHT}))


class Mean(nn.Module):
    """Divides by a size that was a number when it was traced."""

    def __init__(self, free: bool) -> None:
        super().__init__()
        self.conv, self.out, self.free = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 3), free

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).relu()
        out: Tensor = self.out(y.mean((2, 3)) if self.free else y.sum((2, 3)) / (y.shape[2] * y.shape[3]))
        return out


@pytest.mark.parametrize("where", ["calibration", "evaluate"])
def test_data_of_a_size_at_which_the_model_is_another(where: str) -> None:
    data = {"calibration": torch.randn(8, 3, 8, 8), where: torch.randn(8, 3, 16, 16)}
    evaluate = wb.Evaluation([data.get("evaluate", data["calibration"])], lambda output, batch: output[:, 0])
    words = "at inputs of the size 3x16x16 the model computes another thing than was traced; give example inputs"
    for free in (False, True):
        study = wb.Study(Mean(free), torch.randn(2, 3, 8, 8), calibration=data["calibration"], evaluate=evaluate)
        if free:
            assert study.sensitivity("predicted")
            continue
        with pytest.raises(ValueError, match=words):
            study.sensitivity("predicted")


class Sampling(nn.Module):
    """A variational autoencoder, or dropout that is never off."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.encode, self.decode, self.how = nn.Linear(6, 8), nn.Linear(8, 6), how

    def forward(self, x: Tensor) -> Tensor:
        y = self.encode(x).relu()
        if self.how == "randn_like":
            y = y + torch.randn_like(y)
        elif self.how == "dropout":
            y = nn.functional.dropout(y, 0.2)
        else:
            y = nn.functional.dropout(y, 0.2, self.training)
        out: Tensor = self.decode(y)
        return out


@pytest.mark.parametrize("how", ["randn_like", "dropout", "none"])
def test_a_forward_that_draws_is_refused_before_any_work(how: str) -> None:
    study = wb.Study(Sampling(how), LEFT[:2], calibration=LEFT, refinement=None)
    if how == "none":
        assert study.compress(wb.Budget(macs=0.7)).target_met
        return
    with pytest.raises(wb.Refused, match=rf"{how} in Sampling: the forward draws random numbers in eval mode, too"):
        assert study.graph
