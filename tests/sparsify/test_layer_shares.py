"""How much each layer loses: the totals are exact, the allocation is the best one, outliers are counted by hand."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import nn

import workbench as wb
from workbench import sparsify as sp
from workbench.calibrate import calibrate
from workbench.sensitivity.predict import expected
from workbench.sparsify.layerwise import shares as module

DATA = torch.randn(128, 8, generator=torch.Generator().manual_seed(4))
SIZES = {"0.weight": 128, "2.weight": 256, "4.weight": 64}


def net() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    model[2].weight.data *= 0.05  # type: ignore[operator]  # little goes through it but its bias
    return model.eval()


def total(shares: sp.Shares) -> float:
    return sum(shares.share(name) * size for name, size in SIZES.items()) / sum(SIZES.values())


def test_owl_by_hand() -> None:
    model = net()
    shares = sp.owl(wb.trace(model, DATA[:2]), 0.6, calibration=DATA, spread=0.1, outlier=4.0)
    ratios, read = [], DATA
    with torch.no_grad():
        for layer in (0, 2, 4):
            scores = model[layer].weight.abs() * read.norm(dim=0)  # type: ignore[union-attr]
            ratios.append(float((scores > 4 * scores.mean()).double().mean()))
            read = model[layer : layer + 2](read)
    found = [shares.share(name) for name in SIZES]
    scale = 0.2 / (max(ratios) - min(ratios))  # from most outliers to fewest, twice the spread
    assert [one - found[0] for one in found] == pytest.approx([scale * (ratios[0] - ratio) for ratio in ratios])
    assert total(shares) == pytest.approx(0.6)
    with pytest.raises(ValueError, match=r"with spread=0.3 layers would lose 0\.\d\d to 1\.\d\d"):
        sp.owl(wb.trace(model, DATA[:2]), 0.97, calibration=DATA, spread=0.3, outlier=4.0)


def test_the_allocation_is_the_best_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all combinations of a few levels, within the amount."""
    monkeypatch.setattr(module, "LEVELS", 6)
    graph = wb.trace(net(), DATA[:2])
    shares = sp.by_sensitivity(graph, 0.5, calibration=DATA, maximum=0.9)
    assert total(shares) >= 0.5
    layers = {layer.weight: layer for layer in graph.layers}
    statistics = calibrate(graph, DATA, also=graph.layers, needs={"fisher"})
    options = {name: module._options(layer, 0.9) for name, layer in layers.items()}
    lost = expected({name: module._path(graph, layer, statistics, options[name]) for name, layer in layers.items()})
    best = min(
        sum(lost[name][place] for name, place in zip(lost, places, strict=True))
        for places in product(range(7), repeat=3)
        if sum(options[name][place] for name, place in zip(lost, places, strict=True)) <= 224
    )
    kept = {name: round((1 - shares.share(name)) * size) for name, size in SIZES.items()}
    assert sum(lost[name][options[name].index(kept[name])] for name in lost) == pytest.approx(best)


class Branches(nn.Module):
    """Two layers of one size, of which one is heard much less."""

    def __init__(self) -> None:
        super().__init__()
        self.loud, self.quiet, self.head = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(torch.tanh(self.loud(x)) + 0.02 * torch.tanh(self.quiet(x)))
        return out


def test_shares_lose_less_than_the_same_everywhere() -> None:
    """The layer that is heard less loses most; the output on new inputs is the better for it."""
    torch.manual_seed(0)
    model = Branches().eval()
    graph, fresh = wb.trace(model, DATA[:2]), torch.randn(512, 8, generator=torch.Generator().manual_seed(7))
    shares = sp.by_sensitivity(graph, 0.4, calibration=DATA)
    assert shares.share("quiet.weight") > shares.share("loud.weight") + 0.2
    with torch.no_grad():
        errors = [
            (sp.prune_layerwise(graph, amount, calibration=DATA).model(fresh) - model(fresh)).square().mean()
            for amount in (shares, 0.4)
        ]
    assert errors[0] < errors[1]
