"""The Fisher information of outputs: gradients one sample at a time, and what cannot be had."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench import fisher, trace
from workbench.calibrate import Batches, calibrate
from workbench.fisher import gather_fisher, weighed
from workbench.graph.inputs import Inputs


def network(groups: int = 1) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3, groups=groups), nn.Flatten(), nn.Linear(4 * 9, 3)
    ).double()


def summed(output: Tensor, inputs: Inputs) -> Tensor:
    del inputs
    return F.cross_entropy(output, torch.zeros(len(output), dtype=torch.long), reduction="sum")


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("wide", [False, True])
def test_it_is_the_mean_square_of_each_samples_gradient(
    groups: int, wide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if wide:
        monkeypatch.setattr(fisher, "WIDEST", 1)
    model, data = network(groups), torch.randn(10, 2, 7, 7).double()
    graph = trace(model, data[:2])
    found = gather_fisher(graph, Batches.of([data[:4], data[4:]]), loss=summed)
    assert found.keys() == {"2", "4"}
    total = torch.zeros(groups, 4 // groups, 4 // groups, dtype=torch.float64)
    for sample in data.split(1):
        made = model[2](model[1](model[0](sample)))
        made.retain_grad()
        summed(model[4](model[3](made)), Inputs.of(sample)).backward()
        rows = made.grad[0].flatten(1).view(groups, 4 // groups, -1)
        total += rows @ rows.mT / len(data)
    torch.testing.assert_close(found["2"], total.diagonal(dim1=1, dim2=2) if wide else total)


def test_gradients_pass_by_what_drops_only_in_training() -> None:
    plain, data = network().eval(), torch.randn(8, 2, 7, 7).double()
    dropping = nn.Sequential(*plain[:3], nn.Dropout(0.5), *plain[3:]).eval()
    wanted = calibrate(trace(plain, data[:2]), [data], needs={"fisher"}, loss=summed)
    found = calibrate(trace(dropping, data[:2]), [data], needs={"fisher"}, loss=summed)
    assert not found.no_fisher
    torch.testing.assert_close(found.fisher["2"], wanted.fisher["2"])


def test_errors_are_weighed_as_it_counts_them() -> None:
    torch.manual_seed(0)
    some = torch.randn(3, 5).double()
    factor, errors = some.T @ some, torch.randn(20, 5).double()  # of rank 3
    torch.testing.assert_close(weighed(errors, factor).square().sum(), (errors @ factor * errors).sum())
    torch.testing.assert_close(weighed(errors, factor.diagonal()), errors * factor.diagonal().sqrt())


class Chosen(nn.Module):
    """Says which, not how much."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).argmax(1)


def test_why_there_is_none_is_told() -> None:
    data = torch.randn(16, 4)
    statistics = calibrate(trace(Chosen(), data), [data], needs={"fisher"})
    assert statistics.fisher == {}
    assert statistics.no_fisher == (
        "ValueError: the model returns no floating-point tensor that its weights made; give loss="
    )
    assert (
        calibrate(trace(network(), torch.randn(2, 2, 7, 7).double()), [torch.randn(8, 2, 7, 7).double()]).no_fisher
        == ""
    )
