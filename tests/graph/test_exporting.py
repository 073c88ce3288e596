"""The batch stays free where it can; where it cannot, that is said, and everything runs at the size of the example."""

from __future__ import annotations

import builtins
import sys

import pytest
import torch
from torch import Tensor, nn

import workbench as wb


class Fixed(nn.Module):
    """``size`` says how the forward comes by the number of samples."""

    def __init__(self, size: str, count: int = 0):
        super().__init__()
        self.size, self.count = size, count
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        batch = {"len": lambda: len(x), "shape": lambda: x.shape[0], "number": lambda: self.count}[self.size]()
        return self.b(self.a(x).relu().view(batch, 3, 2, 4).transpose(2, 3).reshape(batch, 3, 8))


@pytest.mark.parametrize("size", ["len", "shape"])
def test_the_batch_is_free(size: str) -> None:
    model = Fixed(size).eval()
    graph = wb.trace(model, torch.randn(1, 3, 4))
    assert graph.program.any_batch
    assert builtins.len is len
    small = graph.winnow({group.name: [0, 1] for group in graph.groups})
    for count in (1, 3, 7):
        assert small(torch.randn(count, 3, 4)).shape == (count, 3, 2)


def test_a_fixed_batch_runs_at_its_size_and_no_other() -> None:
    model = Fixed("number", 16).eval()
    data = list(torch.randn(64, 3, 4).split(16))
    result = wb.compress(model, data[0], budget=wb.Budget(macs=0.6), calibration=data)
    assert result.target_met
    assert result.verification.ok
    graph = wb.trace(model, data[0])
    assert not graph.program.any_batch
    with pytest.raises(
        ValueError, match=r"the forward fixes the batch: x has 16 samples in every run, not 4; .*x.shape"
    ):
        wb.compress(model, data[0], budget=wb.Budget(macs=0.6), calibration=list(torch.randn(64, 3, 4).split(4)))


def test_a_batch_that_does_not_fit_names_the_line() -> None:
    with pytest.raises(
        wb.Refused, match=r"it cannot follow the forward at .*test_exporting.py:\d+, `return self.b"
    ) as told:
        wb.trace(Fixed("number", 16).eval(), torch.randn(1, 3, 4))
    assert str(told.value).count("cannot follow") == 1


class Branching(nn.Module):
    """Which way it goes depends on the numbers, and it says where it is."""

    def forward(self, x: Tensor) -> Tensor:
        sys.stderr.write("here")
        return x * 2 if x.sum() > 0 else x


def test_a_refusal_is_a_sentence_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(wb.Refused, match="it cannot follow the forward at"):
        wb.trace(Branching(), torch.randn(1, 8))
    assert capfd.readouterr().err == ""


class Talking(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        sys.stderr.write("here")
        return super().forward(x)


def test_what_a_forward_says_is_heard(capfd: pytest.CaptureFixture[str]) -> None:
    wb.trace(Talking(nn.Linear(3, 4), nn.Linear(4, 2)), torch.randn(1, 3))
    assert "here" in capfd.readouterr().err


def test_what_pytorch_says_of_its_own_lstm_is_not_passed_on(recwarn: pytest.WarningsRecorder) -> None:
    wb.trace(nn.LSTM(4, 8, 2, batch_first=True), torch.randn(2, 5, 4))
    assert not [str(warning.message) for warning in recwarn]
