"""The repair is scikit-learn's ridge regression on explicit rows, and never makes held-out rows worse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression, Ridge
from torch import Tensor, nn

from workbench.calibrate import Evidence, calibrate
from workbench.graph.trace import trace
from workbench.moments import Moments
from workbench.reconstruct import FOLD, RIDGES, Repair, reconstruct
from workbench.repair import repair_layer, repaired_tensors


def evidence(fit: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor]) -> Evidence:
    """Of one group, from rows [n, p] and targets [n, q]."""
    found = []
    for rows, targets in (fit, held_out):
        found.append(Moments.empty(1, rows.shape[1], targets.shape[1]))
        found[-1].add(rows[None].double(), targets[None].double())
    return Evidence(*found)


def scene(n: int, p: int, q: int, seed: int = 0, noise: float = 0.1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A weight, a bias, correlated rows off zero, and what the layer makes of them (and a little more)."""
    generator = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    weight, bias = normal(q, p), normal(q)
    rows = normal(n, p) @ (normal(p, p) / p**0.5 + torch.eye(p, dtype=torch.float64)) + 0.5
    return weight, bias, rows, rows @ weight.T + bias + noise * normal(n, q)


def output(repair: Repair, rows: Tensor, bias: Tensor | None = None) -> Tensor:
    constant = repair.bias if bias is None else bias
    return rows @ repair.weight.flatten(1).T + constant


@pytest.mark.parametrize("ridge", [1e-6, 1e-2, 1.0])
@pytest.mark.parametrize("kept", [(0, 2, 3, 6), (5,), tuple(range(8))])
def test_equals_ridge_regression_of_what_the_old_weights_leave(kept: tuple[int, ...], ridge: float) -> None:
    weight, bias, rows, targets = scene(200, 8, 3)
    targets = targets + 3 * torch.sin(rows[:, :3])  # so that no choice of columns is perfect
    repair = reconstruct(
        weight, bias, kept, evidence((rows[:150], targets[:150]), (rows[150:], targets[150:])).of(kept), ridges=[ridge]
    )
    x, old = rows[:, kept].numpy(), weight[:, kept].numpy()
    strength = ridge * np.square(x).sum(0).mean()
    fitted = Ridge(alpha=strength, tol=1e-12).fit(x, targets.numpy() - x @ old.T)
    assert repair.ridge == ridge
    np.testing.assert_allclose(repair.weight[:, kept], fitted.coef_ + old, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(repair.bias, fitted.intercept_, rtol=1e-7, atol=1e-9)
    gone = [column for column in range(8) if column not in kept]
    assert not repair.weight[:, gone].any()


def test_a_vanishing_ridge_is_linear_regression() -> None:
    weight, bias, rows, targets = scene(400, 6, 2)
    kept = (0, 1, 4)
    found = reconstruct(weight, bias, kept, evidence((rows, targets), (rows, targets)).of(kept), ridges=[1e-13])
    fitted = LinearRegression().fit(rows[:, kept].numpy().repeat(2, 0), targets.numpy().repeat(2, 0))
    np.testing.assert_allclose(found.weight[:, kept], fitted.coef_, rtol=1e-6)
    np.testing.assert_allclose(found.bias, fitted.intercept_, rtol=1e-6)


def test_without_intercept_the_old_bias_stands() -> None:
    weight, _, rows, targets = scene(300, 6, 2)
    kept = (0, 1, 4)
    data = evidence((rows, targets), (rows, targets)).of(kept)
    repair = reconstruct(weight, None, kept, data, intercept=False, ridges=[1e-13])
    fitted = LinearRegression(fit_intercept=False).fit(rows[:, kept].numpy(), targets.numpy())
    np.testing.assert_allclose(repair.weight[:, kept], fitted.coef_, rtol=1e-6)
    assert repair.bias is None or not repair.bias.any()


def test_the_errors_are_those_of_the_held_out_rows() -> None:
    weight, bias, rows, targets = scene(300, 8, 3)
    kept = (0, 2, 3)
    fit, held_out = (rows[:200], targets[:200]), (rows[200:], targets[200:])
    repair = reconstruct(weight, bias, kept, evidence(fit, held_out).of(kept), ridges=[1e-3])
    dropped = torch.zeros_like(weight)
    dropped[:, kept] = weight[:, kept]
    scale = (held_out[1] - held_out[1].mean(0)).square().sum().item()
    before = (held_out[0] @ dropped.T + bias - held_out[1]).square().sum().item() / scale
    x, old = fit[0][:, kept].numpy(), weight[:, kept].numpy()
    fitted = Ridge(alpha=1e-3 * np.square(x).sum(0).mean(), tol=1e-12).fit(x, fit[1].numpy() - x @ old.T)
    made = held_out[0][:, kept].numpy() @ (fitted.coef_ + old).T + fitted.intercept_
    assert repair.error == pytest.approx((before, np.square(made - held_out[1].numpy()).sum() / scale), rel=1e-6)


@pytest.mark.parametrize("gone", [[3], [1, 4, 6]])
def test_is_the_joint_step_of_the_optimal_brain_surgeon(gone: list[int]) -> None:
    """With H = X'X + ridge, what stays changes by - H^-1[:, Q] (H^-1[Q, Q])^-1 w[Q] (Hassibi & Stork 1993)."""
    ridge = 1e-3
    weight, _, rows, _ = scene(300, 8, 3, noise=0)
    kept = [column for column in range(8) if column not in gone]
    data = evidence((rows, rows @ weight.T), (rows, rows @ weight.T)).of(kept)
    found = reconstruct(weight, None, kept, data, intercept=False, ridges=[ridge])
    strength = ridge * 2 * rows[:, kept].square().sum(0).mean()  # of the rows twice
    inverse = torch.linalg.inv(2 * rows.T @ rows + strength * torch.eye(8, dtype=torch.float64))
    step = inverse[:, gone] @ torch.linalg.solve(inverse[gone][:, gone], weight.T[gone])
    torch.testing.assert_close(found.weight, (weight.T - step).T, rtol=1e-8, atol=1e-10)


def test_an_endless_ridge_folds_the_mean_into_the_bias() -> None:
    weight, bias, rows, targets = scene(300, 8, 3)
    kept = (0, 2, 3)
    data = evidence((rows[:200], targets[:200]), (rows[200:], targets[200:])).of(kept)
    folded = reconstruct(weight, bias, kept, data, ridges=[FOLD])
    assert folded.ridge == FOLD
    assert torch.equal(folded.weight[:, kept], weight[:, kept])
    torch.testing.assert_close(folded.bias, (targets - rows[:, kept] @ weight[:, kept].T).mean(0))
    assert folded.error[1] < folded.error[0]
    assert reconstruct(weight, None, kept, data, intercept=False, ridges=[FOLD]).ridge is None  # nothing to fold into


def test_without_ridges_the_weights_stay() -> None:
    weight, bias, rows, targets = scene(300, 8, 3)
    repair = reconstruct(weight, bias, (0, 2), evidence((rows, targets), (rows, targets)).of((0, 2)), ridges=[])
    assert repair.ridge is None
    assert repair.error[0] == repair.error[1]
    assert torch.equal(repair.weight[:, (0, 2)], weight[:, (0, 2)])
    assert torch.equal(repair.bias, bias)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000), n=st.integers(4, 120), p=st.integers(2, 24), noise=st.sampled_from((0.0, 0.1, 3.0)),
    share=st.floats(0.1, 1.0),
)  # fmt: skip
def test_never_worse_on_the_held_out_rows(seed: int, n: int, p: int, noise: float, share: float) -> None:
    """Few rows, many columns, loud noise: the error after is at most the one before, and all is finite."""
    weight, bias, rows, targets = scene(2 * n, p, 2, seed, noise)
    kept = range(max(1, round(share * p)))
    repair = reconstruct(weight, bias, kept, evidence((rows[:n], targets[:n]), (rows[n:], targets[n:])).of(kept))
    assert repair.error[1] <= repair.error[0]
    assert torch.isfinite(repair.weight).all()
    assert torch.isfinite(repair.bias).all()
    if repair.ridge is None:
        assert torch.equal(repair.weight[:, kept], weight[:, kept])
        assert torch.equal(repair.bias, bias)
    else:
        assert repair.ridge in RIDGES


def test_not_worse_on_fresh_data() -> None:
    """On rows that neither the fit nor the choice saw: better on average, at worst 5 % worse."""
    ratios = []
    for seed in range(40):
        weight, bias, rows, targets = scene(1400, 12, 4, seed, noise=0.3)
        kept = range(4 + seed % 8)
        repair = reconstruct(
            weight, bias, kept, evidence((rows[:300], targets[:300]), (rows[300:400], targets[300:400])).of(kept)
        )
        dropped = torch.zeros_like(weight)
        dropped[:, kept] = weight[:, kept]
        fresh, wanted = rows[400:], targets[400:]
        before = (fresh @ dropped.T + bias - wanted).square().sum()
        ratios.append(((output(repair, fresh) - wanted).square().sum() / before).item())
    assert np.mean(ratios) < 1
    assert max(ratios) <= 1.05


def test_dead_inputs_are_harmless() -> None:
    weight, bias, rows, _ = scene(100, 6, 2)
    rows[:, 2] = 0
    targets = rows @ weight.T + bias
    repair = reconstruct(
        weight, bias, (0, 1, 2, 3), evidence((rows[:70], targets[:70]), (rows[70:], targets[70:])).of((0, 1, 2, 3))
    )
    assert repair.error[1] < repair.error[0]
    assert torch.isfinite(repair.weight).all()
    torch.testing.assert_close(repair.weight[:, 2], weight[:, 2])  # nothing is known of it, so it stays


@pytest.mark.parametrize("constant", [0.0, 7.0])
def test_inputs_that_never_change(constant: float) -> None:
    weight, bias, _, _ = scene(10, 5, 2)
    rows = torch.full((40, 5), constant, dtype=torch.float64)
    targets = rows @ weight.T + bias
    repair = reconstruct(
        weight, bias, (1, 2), evidence((rows[:30], targets[:30]), (rows[30:], targets[30:])).of((1, 2))
    )
    assert torch.isfinite(repair.weight).all()
    torch.testing.assert_close(output(repair, rows), targets, rtol=1e-4, atol=1e-4)


def test_fewer_rows_than_columns() -> None:
    weight, bias, rows, targets = scene(600, 50, 3, noise=0.0)
    kept = range(30)
    repair = reconstruct(
        weight, bias, kept, evidence((rows[:12], targets[:12]), (rows[12:20], targets[12:20])).of(kept)
    )
    assert torch.isfinite(repair.weight).all()
    assert repair.error[1] <= repair.error[0]


def test_twins_among_the_inputs() -> None:
    """Two columns that are the same: removing one costs nothing after repair."""
    weight, bias, rows, _ = scene(200, 6, 3)
    rows[:, 5] = rows[:, 4]
    targets = rows @ weight.T + bias
    repair = reconstruct(
        weight, bias, range(5), evidence((rows[:150], targets[:150]), (rows[150:], targets[150:])).of(range(5))
    )
    assert repair.error[0] > 0.01
    assert repair.error[1] < 1e-8


def test_each_group_of_a_grouped_layer_is_its_own_problem() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, 3, groups=2).double()
    x = torch.randn(64, 4, 5, 5, dtype=torch.float64)
    graph = trace(nn.Sequential(nn.Conv2d(4, 4, 1), layer, nn.Conv2d(6, 2, 1)).double(), x)
    kept = range(9)  # channel 0 of each group
    found = calibrate(graph, [x]).layers["1"].of(kept)
    repair = reconstruct(layer.weight, layer.bias, kept, found)
    for block in range(2):
        part = Evidence(*(Moments(m.xx[block, None], m.xy[block, None], m.yy[block, None], m.count)
                          for m in (found.fit, found.held_out)))  # fmt: skip
        rows = slice(3 * block, 3 * block + 3)
        alone = reconstruct(layer.weight[rows], layer.bias[rows], kept, part, ridges=[repair.ridge])
        torch.testing.assert_close(alone.weight, repair.weight[rows])
        torch.testing.assert_close(alone.bias, repair.bias[rows])


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "mean of the norm behind"])
def test_a_repair_goes_into_the_bias_or_the_norm_behind(bias: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1, bias=bias), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)
    )
    model = model.double().eval()
    model[3].running_mean.normal_()
    x = torch.rand(64, 3, 4, 4, dtype=torch.float64)
    graph = trace(model, x)
    layer = graph.layers[1]
    assert layer.mean == (None if bias else "3.running_mean")
    repair = repair_layer(graph, layer, range(4), calibrate(graph, [x]).layers["2"].of(range(4)))
    changed = repaired_tensors(layer, repair, graph.program.tensors)
    constant = "2.bias" if bias else "3.running_mean"
    assert changed.keys() == {"2.weight", constant}
    with torch.no_grad():
        hidden = model[1](model[0](x))
        made = model[3](nn.functional.conv2d(hidden, repair.weight, repair.bias))
        parts = {"0.weight": repair.weight, ("0.bias" if bias else "1.running_mean"): changed[constant]}
        small = torch.func.functional_call(nn.Sequential(*model[2:4]), parts, (hidden,))
    torch.testing.assert_close(small, made)


def test_a_norm_that_two_layers_share_is_not_changed() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.norm = nn.Conv2d(3, 6, 1), nn.BatchNorm2d(4)
            self.a, self.b = nn.Conv2d(6, 4, 1, bias=False), nn.Conv2d(6, 4, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x).relu()
            return self.norm(self.a(x)) * self.norm(self.b(x))

    graph = trace(Shared(), torch.rand(2, 3, 4, 4))
    assert [layer.mean for layer in graph.layers] == [None, None, None]
