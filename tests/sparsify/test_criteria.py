"""Every criterion against a brute-force computation of what it says it is, on small layers."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import workbench as wb
from workbench import sparsify as sp
from workbench.select import L1, GroupView
from workbench.sparsify.evidence import activations
from workbench.sparsify.rule import scored_sites
from workbench.sparsify.view import WeightView

DATA = torch.randn(12, 3, 6, 6, generator=torch.Generator().manual_seed(5))
BATCHES = [DATA[:8], DATA[8:]]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, groups=2),
        nn.Flatten(), nn.Linear(96, 5),
    ).eval()  # fmt: skip


def loss(output: Tensor, _inputs: object) -> Tensor:
    return output.square().sum()


def known(criterion: sp.Criterion, pattern: sp.Pattern, layer: str) -> Tensor:
    """What the criterion says of the units of one layer after all batches, flat."""
    from workbench.sparsify.oneshot import _looks

    model, found = net(), dict[str, Tensor]()
    rule = sp.Rule(criterion, pattern, layers=(layer,))
    units = rule.units(model)
    for views in _looks(model, rule, units, {}, BATCHES, loss, 0):
        rule.look(units, views, found)
    return criterion.worth(found[f"{layer}.weight"]).flatten()


def gradients(layer: int) -> list[Tensor]:
    model, found = net(), []
    for batch in BATCHES:
        model.zero_grad()
        (loss(model(batch), None) / len(batch)).backward()
        found.append(model[layer].weight.grad.clone())  # type: ignore[union-attr]
    return found


W = net()[0].weight.detach()  # type: ignore[union-attr]  # [4, 3, 3, 3]
G = gradients(0)


def lamp(weights: Tensor) -> Tensor:
    squares = weights.flatten().square().double()
    return torch.stack([s / squares[squares >= s].sum() for s in squares])


ORACLES: list[tuple[sp.Criterion, sp.Pattern, Callable[[], Tensor]]] = [
    (sp.Magnitude(), sp.Elements(), lambda: W.abs().flatten()),
    (sp.Magnitude(), sp.rows(sp.total), lambda: torch.stack([sum(x.abs() for x in f.flatten()) for f in W])),
    (sp.Magnitude(2), sp.rows(sp.total), lambda: torch.stack([f.norm() ** 2 for f in W])),
    (sp.Magnitude(3), sp.columns(sp.total), lambda: (W.abs() ** 3).sum((0, 2, 3))),
    (sp.Magnitude(math.inf), sp.rows(), lambda: torch.stack([f.abs().max() for f in W])),
    (sp.Magnitude(), sp.rows(sp.greatest), lambda: torch.stack([f.abs().max() for f in W])),
    (sp.GeometricMedian(), sp.rows(), lambda: torch.stack([sum((a - b).norm() for b in W) for a in W])),
    (sp.Lamp(), sp.Elements(), lambda: lamp(W)),
    (sp.Gradient(), sp.Elements(), lambda: G[-1].abs().flatten()),
    (sp.Snip(), sp.Elements(), lambda: (W * G[-1]).abs().flatten()),
    (sp.SnipMomentum(), sp.Elements(), lambda: (0.9 * (W * G[0]).abs() + (W * G[1]).abs()).flatten()),
    (sp.Taylor(), sp.rows(), lambda: sum((W * g).sum((1, 2, 3)).square() for g in G)),
    (sp.Fisher(), sp.rows(), lambda: sum((W * g).square().sum((1, 2, 3)) for g in G)),
    (sp.Movement(0.1), sp.Elements(), lambda: -0.1 * (W * (G[0] + G[1])).flatten()),
]  # fmt: skip


@pytest.mark.parametrize(("criterion", "pattern", "oracle"), ORACLES, ids=[f"{c}, {p}" for c, p, _ in ORACLES])
def test_against_brute_force(criterion: sp.Criterion, pattern: sp.Pattern, oracle: Callable[[], Tensor]) -> None:
    found, expected = known(criterion, pattern, "0"), oracle()
    assert found.shape == expected.shape
    assert torch.allclose(found.double(), expected.detach().double(), rtol=1e-4)
    assert found.unique().numel() > 1


def test_lamp_of_equal_weights_is_one_score() -> None:
    assert sp.Lamp().worth(torch.tensor([[4.0, 1.0, 1.0, 2.0]])).tolist() == [[1.0, 0.125, 0.125, 2 / 6]]


def test_soft_movement_descends_its_penalty() -> None:
    """S after two steps, the penalty's gradient by autograd."""
    criterion = sp.Movement(rate=0.5, penalty=3.0)
    s = torch.zeros(W.numel())
    for g in G:
        s.requires_grad_(True)
        (slope,) = torch.autograd.grad(3.0 * torch.sigmoid(s).mean(), s)
        s = (s - 0.5 * (g * W).flatten() - 0.5 * slope).detach()
    assert torch.allclose(known(criterion, sp.Elements(), "0"), torch.sigmoid(s), atol=1e-6)


def squares(layer: nn.Module, x: Tensor) -> Tensor:
    """The 2-norm of what each weight is multiplied by, found with one weight of 1 at a time."""
    norms = torch.zeros_like(layer.weight)  # type: ignore[arg-type]
    for place in range(norms.numel()):
        layer.weight.data.zero_()  # type: ignore[union-attr, operator]
        layer.weight.data.view(-1)[place] = 1  # type: ignore[union-attr, operator]
        norms.view(-1)[place] = layer(x).norm()
    return norms


LAYERS = {
    "linear": (nn.Linear(6, 3, bias=False), torch.randn(5, 7, 6)),
    "conv1d": (nn.Conv1d(2, 3, 3, stride=2, bias=False), torch.randn(4, 2, 9)),
    "grouped, dilated, padded": (
        nn.Conv2d(4, 4, 2, padding=1, dilation=2, groups=2, bias=False), torch.randn(4, 4, 5, 5)),
    "reflected": (nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect", bias=False), torch.randn(4, 2, 5, 5)),
    "transposed": (nn.ConvTranspose2d(4, 4, 2, stride=2, groups=2, bias=False), torch.randn(4, 4, 3, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_wanda_knows_what_every_weight_is_multiplied_by(name: str) -> None:
    layer, x = LAYERS[name]
    with torch.no_grad():
        weight = torch.randn(layer.weight.shape)
        model = nn.Sequential(layer)
        layer.weight.copy_(weight)
        seen = activations(model, sp.sites_of(model), {"inputs"}, [x])
        expected = squares(layer, x)
    assert torch.allclose(seen["inputs"]["0.weight"], expected, rtol=1e-4, atol=1e-6)
    (site,) = sp.sites_of(model)
    view = WeightView(site, weight, inputs=expected)
    assert torch.equal(sp.Wanda().elements(view), weight.abs() * expected)


@pytest.mark.parametrize("active", [False, True])
def test_activations_behind_a_relu(active: bool) -> None:
    model = net()
    masks = sp.prune(
        model, 2, sp.Rule(sp.Activation(active), sp.rows(), layers=("3",)), calibration=BATCHES
    )  # fmt: skip
    given = F.relu(model[:4](DATA))
    scores = (given > 0).float().mean((0, 2, 3)) if active else given.mean((0, 2, 3))
    lost = [row for row in range(6) if not masks["3.weight"][row].any()]
    assert sorted(lost) == sorted(scores.argsort()[:2].tolist())


def test_random_follows_from_seed_and_name() -> None:
    model = net()
    rule = sp.Rule(sp.Random())
    one, same, other = sp.prune(model, 0.5, rule), sp.prune(model, 0.5, rule), sp.prune(model, 0.5, rule, seed=1)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["0.weight"], other["0.weight"])


def test_channels_are_scored_as_select_scores_them() -> None:
    model = net()
    graph = wb.trace(model, DATA[:2])
    masks = sp.prune(model, 1, sp.Rule(sp.Magnitude(1), sp.Channels(), layers=("0",)), graph=graph)
    path = L1()(GroupView(graph["0"], (), graph.program.tensors, {}))
    gone = graph["0"].members[0].indices[path.order[0]]
    readers = masks.pop("3.weight")
    assert set(masks) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    for mask in masks.values():
        assert (~mask).reshape(4, -1).all(1).nonzero().flatten().tolist() == list(gone)
    assert (~readers).movedim(1, 0).flatten(1).all(1).nonzero().flatten().tolist() == [gone[0] % 2]


def test_a_criterion_of_the_users_own() -> None:
    model = net()
    masks = sp.prune(model, 0.5, sp.Rule(sp.Own(lambda view: -view.weight.abs()), layers=("5",)))
    weight = model[5].weight.abs()  # type: ignore[union-attr, operator]
    assert weight[masks["5.weight"]].max() < weight[~masks["5.weight"]].min()
    with pytest.raises(ValueError, match=r"scores of shape \(5,\) for 5.weight; it must give one for each element"):
        sp.prune(model, 0.5, sp.Rule(sp.Own(lambda view: view.weight[:, 0]), layers=("5",)))


def test_what_is_missing_is_said() -> None:
    with pytest.raises(ValueError, match=r"Snip\(\) needs gradient; give calibration="):
        sp.prune(net(), 0.5, sp.Rule(sp.Snip()))
    model = net()
    model[5].weight.data[0, 0] = float("nan")  # type: ignore[union-attr, operator]
    with pytest.raises(ValueError, match=r"gives 1 scores for 5.weight that are no finite numbers"):
        sp.prune(model, 0.5)
    attention = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
    with pytest.raises(ValueError, match=r"needs the inputs of self_attn.in_proj_weight, of which there is none"):
        sp.prune(attention, 0.5, sp.Rule(sp.Wanda(), layers=("self_attn",)), calibration=[torch.randn(4, 3, 8)])
    with pytest.raises(ValueError, match="the p of a p-norm is 0"):
        sp.Magnitude(0)
    with pytest.raises(ValueError, match=r"give graph=wb.trace"):
        sp.prune(net(), 0.5, sp.Rule(pattern=sp.Channels()))


def test_scored_sites_are_listed_once() -> None:
    model = net()
    graph = wb.trace(model, DATA[:2])
    units = sp.Rule(pattern=sp.Channels()).units(model, graph)
    names = [site.name for site in scored_sites(units)]
    assert len(names) == len(set(names)) > 0
