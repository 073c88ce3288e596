"""Every criterion against a brute-force computation of what it says it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import Lasso as SklearnLasso
from torch import Tensor, nn

import workbench as wb
from workbench import Budget, trace
from workbench.calibrate import calibrate
from workbench.graph.inputs import Inputs
from workbench.graph.trace import ChannelGraph
from workbench.select import (
    BY_NAME,
    L1,
    L2,
    ActivationEnergy,
    ActivePositions,
    ByHand,
    Criterion,
    Elimination,
    Fisher,
    GeometricMedian,
    GroupView,
    Lasso,
    Random,
    Slimming,
    Taylor,
    largest,
    mean,
    name_of,
    needs_of,
    ranked,
    total,
)
from workbench.select.lasso import lasso_problem

ALL: list[Criterion] = [
    Random(), L1(), L2(), GeometricMedian(), Slimming(), ActivationEnergy(), ActivePositions(), Taylor(), Fisher(),
    Lasso(), Elimination(), ByHand({}),
]  # fmt: skip


class Net(nn.Module):
    """Channels that a BN scales and two layers read: a grouped convolution and, flattened, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.make, self.bn = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.read, self.head = nn.Conv2d(8, 6, 3, groups=2), nn.Linear(8 * 16, 5)
        with torch.no_grad():
            self.bn.weight.copy_(torch.linspace(0.2, 2, 8)[torch.randperm(8)])
            self.bn.bias.normal_()

    def features(self, x: Tensor) -> Tensor:
        return self.bn(self.make(x)).relu()

    def rest(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1)) + self.read(x).mean((2, 3))[:, :5]

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.features(x))


class Plain(nn.Module):
    """The same without groups, so that every channel is a unit."""

    def __init__(self) -> None:
        super().__init__()
        self.make, self.bn = nn.Conv2d(3, 7, 3), nn.BatchNorm2d(7)
        self.read, self.head = nn.Conv2d(7, 6, 3), nn.Linear(7 * 16, 5)
        with torch.no_grad():
            self.bn.weight.copy_(torch.linspace(0.2, 2, 7)[torch.randperm(7)])
            self.bn.bias.normal_()

    features, rest, forward = Net.features, Net.rest, Net.forward


DATA = torch.randn(48, 3, 6, 6, generator=torch.Generator().manual_seed(5))


def net(kind: type[Net] | type[Plain] = Plain) -> tuple[nn.Module, ChannelGraph]:
    torch.manual_seed(0)
    model = kind().eval()
    return model, trace(model, DATA[:2])


def view_for(criterion: Criterion, graph: ChannelGraph, loss: object = None, name: str = "make") -> GroupView:
    return GroupView.of(graph, name, calibrate(graph, [DATA[:32], DATA[32:]], needs=needs_of(criterion), loss=loss))  # type: ignore[arg-type]


def order_of(scores: Tensor) -> tuple[int, ...]:
    return tuple(sorted(range(len(scores)), key=lambda unit: (scores[unit].item(), unit)))


@pytest.mark.parametrize("kind", [Net, Plain])
@pytest.mark.parametrize("criterion", ALL, ids=lambda one: type(one).__name__)
def test_each_orders_all_units_once_and_the_same_twice(criterion: Criterion, kind: type[Net]) -> None:
    _, graph = net(kind)
    view = view_for(criterion, graph)
    path = criterion(view)
    assert sorted(path.order) == list(range(view.group.units))
    assert criterion(view) == path
    assert path.least >= 1


class Halves(nn.Module):
    """Of which each half is read by a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.make, self.left, self.right = nn.Conv2d(3, 8, 3), nn.Conv2d(4, 5, 3), nn.Conv2d(4, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.make(x).relu().split([4, 4], 1)
        return self.left(left) + self.right(right)


@pytest.mark.parametrize("criterion", ALL, ids=lambda one: type(one).__name__)
def test_layers_that_read_a_part(criterion: Criterion) -> None:
    torch.manual_seed(0)
    graph = trace(Halves().eval(), DATA[:2])
    (name,) = (group.name for group in graph.exact)
    view = GroupView.of(graph, name, calibrate(graph, [DATA], needs=needs_of(criterion)))
    assert sorted(criterion(view).order) == list(range(view.group.units))


@pytest.mark.parametrize(
    ("criterion", "scores"),
    [
        (L1(), lambda m: m.make.weight.abs().sum((1, 2, 3))),
        (L2(), lambda m: m.make.weight.square().sum((1, 2, 3))),
        (Slimming(), lambda m: m.bn.weight.abs()),
        (GeometricMedian(), lambda m: torch.stack(
            [sum((a - b).norm() for b in m.make.weight) for a in m.make.weight])),
        (ActivationEnergy(), lambda m: m.features(DATA).square().mean((0, 2, 3))),
        (ActivePositions(), lambda m: m.features(DATA).ne(0).float().mean((0, 2, 3))),
    ],
    ids=lambda one: type(one).__name__,
)  # fmt: skip
def test_equals_the_formula(criterion: Criterion, scores: object) -> None:
    model, graph = net()
    with torch.no_grad():
        expected = scores(model)  # type: ignore[operator]
    assert criterion(view_for(criterion, graph)).order == order_of(expected)


def gates(model: nn.Module, wanted: Tensor) -> Tensor:
    """The gradient of each sample's loss at gates of one, ``[samples, units]``, one sample at a time."""
    found = []
    for sample, target in zip(DATA, wanted, strict=True):
        one, two = (torch.ones(7, requires_grad=True) for _ in range(2))
        x = model.features(sample[None])  # type: ignore[operator]
        output = model.head((x * one[:, None, None]).flatten(1))  # type: ignore[operator]
        output = output + model.read(x * two[:, None, None]).mean((2, 3))[:, :5]  # type: ignore[operator]
        (output - target).square().sum().backward()
        found.append(torch.stack([one.grad, two.grad]))  # type: ignore[list-item]
    return torch.stack(found)


def test_fisher_and_taylor_equal_explicit_gates() -> None:
    """A gate on what each of two layers reads; they read the same value, whose gradient holds both."""
    model, graph = net()
    wanted = torch.randn(48, 5, generator=torch.Generator().manual_seed(1))
    place = {tuple(sample.flatten().tolist()): target for sample, target in zip(DATA, wanted, strict=True)}

    def loss(output: Tensor, inputs: Inputs) -> Tensor:
        targets = torch.stack([place[tuple(sample.flatten().tolist())] for sample in inputs.tensors()[0]])
        return (output - targets).square().sum()

    whole = gates(model, wanted).sum(1)  # [samples, units]: through both layers
    flat = gates(model, wanted)[:, 0]
    view = view_for(Fisher(), graph, loss)
    conv, linear = sorted(view.consumers, key=lambda layer: layer.op)
    by_layer = dict(zip([layer.name for layer in view.consumers], view.read_signals(), strict=True))
    torch.testing.assert_close(by_layer[conv.name].fisher, whole.square().sum(0).double(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(by_layer[linear.name].fisher, flat.square().sum(0).double(), rtol=1e-4, atol=1e-4)
    pieces = flat[:32].sum(0).square() + flat[32:].sum(0).square()
    torch.testing.assert_close(by_layer[linear.name].taylor, pieces.double(), rtol=1e-3, atol=1e-3)
    expected = (whole.square().mean(0) + flat.square().mean(0)).double()
    assert Fisher()(view).order == order_of(expected)


def test_labels_drawn_from_the_output_give_the_fisher_information() -> None:
    """In the mean over draws, the squared gate gradient is the one under the model's own distribution."""
    model, graph = net()
    with torch.no_grad():
        chances = model(DATA).softmax(1)
    exact = torch.zeros(7, dtype=torch.float64)
    for label in range(5):
        x = model.features(DATA)  # type: ignore[operator]
        gate = torch.ones(len(DATA), 7, requires_grad=True)
        output = model.head((x * gate[:, :, None, None]).flatten(1)) + model.read(x).mean((2, 3))[:, :5]  # type: ignore[operator]
        F.cross_entropy(output, torch.full((len(DATA),), label), reduction="sum").backward()
        assert gate.grad is not None
        exact += (chances[:, label, None] * gate.grad.square()).sum(0)
    drawn = torch.zeros(7, dtype=torch.float64)
    for seed in range(40):
        view = GroupView.of(graph, "make", calibrate(graph, [DATA], needs=needs_of(Fisher()), seed=seed))
        (linear,) = [s for layer, s in zip(view.consumers, view.read_signals(), strict=True) if layer.op == "linear"]
        drawn += linear.fisher / 40
    clear = exact > 0.02 * exact.max()  # the others are made by labels too rare to be drawn often enough
    assert clear.sum() >= 3
    assert ((drawn - exact).abs() < 0.3 * exact)[clear].all()


def test_lasso_selects_what_sklearn_selects() -> None:
    """On explicit rows: contributions of channels to the output of the layer that reads them."""
    _, graph = net()
    view = view_for(Lasso(), graph)
    order = Lasso()(view).order
    gram, products = lasso_problem(view)
    factor = np.linalg.cholesky(gram.numpy() + 1e-12 * np.eye(7) * gram.trace().item())
    target = np.linalg.solve(factor, products.numpy())
    supports = set()
    for alpha in np.geomspace(1e-4, 1, 400) * products.abs().max().item() / 7:
        fitted = SklearnLasso(alpha=alpha, fit_intercept=False, tol=1e-12, max_iter=100_000).fit(factor.T, target)
        supports.add(frozenset(np.flatnonzero(fitted.coef_).tolist()))
    for kept in range(1, 7):  # the path is nested here: what stays at each width is a support of sklearn's
        assert frozenset(order[7 - kept :]) in supports


def test_lasso_problem_is_that_of_explicit_rows() -> None:
    model, graph = net()
    linear = next(layer for layer in graph.consumers["make"] if layer.op == "linear")
    view = view_for(Lasso(), graph)
    alone = GroupView(view.group, (linear,), view.tensors, view.evidence)
    with torch.no_grad():
        x = model.features(DATA).double()  # type: ignore[operator]
        weight = model.head.weight.double().view(5, 7, 16)  # type: ignore[union-attr,operator]
        parts = torch.einsum("nci,oci->nco", x.flatten(2), weight)
        target = parts.sum(1)
    parts, target = parts - parts.mean(0), target - target.mean(0)
    scale = view.evidence[linear.name].all.energy
    gram, products = lasso_problem(alone)
    torch.testing.assert_close(gram, torch.einsum("nco,ndo->cd", parts, parts) / scale, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(products, torch.einsum("nco,no->c", parts, target) / scale, rtol=1e-4, atol=1e-6)


def test_by_hand_names_what_leaves_first() -> None:
    _, graph = net()
    view = view_for(ByHand({}), graph)
    path = ByHand({"make": [5, 2]}, then=L2())(view)
    assert path.order[:2] == (5, 2)
    assert [u for u in path.order if u not in (5, 2)] == [u for u in L2()(view).order if u not in (5, 2)]
    for wrong, said in (([9], "9 does not exist"), ([1, 1], "named twice")):
        with pytest.raises(ValueError, match=said):
            ByHand({"make": wrong})(view)


def test_a_users_own_criterion_is_any_callable() -> None:
    def by_number(view: GroupView) -> object:
        return ranked(view, torch.arange(view.group.units).double())

    model, _ = net()
    study = wb.Study(model, DATA[:2], calibration=[DATA], criterion=by_number, refinement=None)  # type: ignore[arg-type]
    kept = study.allocate(Budget(macs=0.7)).kept["make"]
    assert kept == tuple(range(7 - len(kept), 7))


@pytest.mark.parametrize(
    ("scores", "said"), [(torch.zeros(3), r"shape is \(3,\)"), (torch.full((7,), torch.nan), "7 are not finite")]
)
def test_wrong_scores_are_named(scores: Tensor, said: str) -> None:
    _, graph = net()
    with pytest.raises(ValueError, match=said):
        ranked(view_for(L2(), graph), scores)


def test_missing_signals_are_asked_for() -> None:
    _, graph = net()
    view = GroupView.of(graph, "make", calibrate(graph, [DATA]))
    with pytest.raises(ValueError, match="needs=needs_of"):
        Fisher()(view)


def test_a_name_holds_no_address() -> None:
    """It stands in stores and reports, which other processes read and compare."""
    names = [name_of(make()) for make in BY_NAME.values()]
    assert len(set(names)) == len(names)
    assert not [name for name in names if "0x" in name]
    assert name_of(L2(aggregate=mean)) == "L2(aggregate=mean)"
    assert name_of(ranked) == "ranked"
    assert name_of(ByHand({"a": [1]}, L1(total))) == "ByHand(first={'a': [1]}, then=L1(aggregate=total))"


def test_aggregates() -> None:
    scores = torch.tensor([[1.0, 3.0], [20.0, 20.0]])
    assert total(scores).tolist() == [21, 23]
    assert mean(scores).tolist() == [0.75, 1.25]
    assert largest(scores).tolist() == [1.0, 1.5]


@pytest.mark.parametrize("criterion", [Taylor(), Lasso(), Slimming(), Random(3)], ids=lambda one: type(one).__name__)
def test_a_study_with_another_criterion_meets_its_budget(criterion: Criterion) -> None:
    model, _ = net()
    study = wb.Study(model, DATA[:2], calibration=[DATA], criterion=criterion, refinement=None)
    assert study.compress(Budget(macs=0.6)).target_met
