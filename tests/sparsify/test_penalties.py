"""The penalties against their formulas, and what they do in training."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import workbench as wb
from workbench import sparsify as sp

X = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def net() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5))
    nn.init.normal_(model[1].weight)  # type: ignore[arg-type]
    return model


def term(model: nn.Module, penalty: sp.Penalty, **options: object) -> Tensor:
    return sp.Sparsifier(model, sp.Recipe((), (penalty,)), **options).penalty()  # type: ignore[arg-type]


def test_slimming() -> None:
    model = net()
    both = model[1].weight.abs().sum() + model[4].weight.abs().sum()  # type: ignore[operator, union-attr]
    assert torch.isclose(term(model, sp.Slimming(0.1)), 0.1 * both)
    one = term(model, sp.Slimming(0.1, layers=("1",)))
    one.backward()
    assert torch.allclose(model[1].weight.grad, 0.1 * model[1].weight.sign())  # type: ignore[arg-type, union-attr, operator]
    assert model[4].weight.grad is None
    with pytest.raises(ValueError, match=r"no BN with a scale is called norm; name others"):
        term(model, sp.Slimming(layers=("norm",)))


def test_group_lasso_of_filters_and_at_zero() -> None:
    model = net()
    model[0].weight.data[1] = 0  # type: ignore[operator]
    rule = sp.Rule(pattern=sp.rows(), layers=("0",))
    found = term(model, sp.GroupLasso(0.5, rule))
    assert torch.isclose(found, 0.5 * sum(f.norm() for f in model[0].weight))  # type: ignore[operator, union-attr]
    found.backward()
    assert model[0].weight.grad.isfinite().all()  # type: ignore[union-attr]
    assert not model[0].weight.grad[1].any()  # type: ignore[union-attr, index]


def test_group_lasso_of_coupled_channels() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.read = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.read((self.one(x) + self.two(x)).relu())

    model = Residual().eval()
    graph = wb.trace(model, X[:2])
    found = term(model, sp.GroupLasso(2.0, sp.Rule(pattern=sp.Channels())), graph=graph)
    joint = torch.cat([model.one.weight.flatten(1), model.two.weight.flatten(1)], 1)
    assert torch.isclose(found, 2 * joint.norm(dim=1).sum())


def test_growing_presses_on_what_would_leave() -> None:
    model = net()
    penalty = sp.Growing(0.5, sp.Rule(pattern=sp.rows(), layers=("0",)), step=0.1, every=5, ceiling=0.25, begin=2)
    assert [penalty.strength(t) for t in (0, 1, 2, 6, 7, 11, 12, 99)] == [0, 0, 0.1, 0.1, 0.2, 0.2, 0.25, 0.25]
    weakest = model[0].weight.abs().mean((1, 2, 3)).argsort()[:2]  # type: ignore[union-attr, operator]
    found = penalty(model, 7)
    assert torch.isclose(found, 0.2 / 2 * model[0].weight[weakest].square().sum())  # type: ignore[operator, index, union-attr]
    with pytest.raises(ValueError, match=r"Growing goes by the weights alone, and Snip\(\) needs more"):
        sp.Growing(0.5, sp.Rule(sp.Snip(), sp.rows()))(model, 7)


def test_several_add_up_and_none_is_zero() -> None:
    model = net()
    sparsifier = sp.Sparsifier(model, sp.Recipe((), (sp.Slimming(0.1), sp.GroupLasso(0.2))))
    assert torch.isclose(sparsifier.penalty(), term(model, sp.Slimming(0.1)) + term(model, sp.GroupLasso(0.2)))
    assert sp.Sparsifier(model, sp.Recipe(())).penalty() == 0


def test_group_lasso_makes_filters_small() -> None:
    """Trained with it, the least filters are a smaller part of the whole than without."""
    shares = []
    for strength in (0.0, 0.05):
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        sparsifier = sp.Sparsifier(model, sp.Recipe((), (sp.GroupLasso(strength, sp.Rule(pattern=sp.rows())),)))
        for _ in range(60):
            optimizer.zero_grad()
            ((model(X) - X.mean()).square().mean() + sparsifier.penalty()).backward()
            optimizer.step()
        norms = model[0].weight.flatten(1).norm(dim=1).sort().values  # type: ignore[union-attr, operator]
        shares.append(norms[:2].sum().item())
    assert shares[1] < 0.5 * shares[0]
