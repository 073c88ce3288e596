"""Factorised layers: exact at full rank, never worse for knowing the data, as good as long searches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from workbench import data, zoo
from workbench.calibrate import calibrate
from workbench.cost.count import count
from workbench.factorize import (
    Form,
    Method,
    Shape,
    SpatialSVD,
    Tucker,
    WeightSVD,
    bilinear,
    compose,
    factorized,
    macs_of,
    metric_of,
    params_of,
    tucker,
)
from workbench.factorize.descent import descend
from workbench.factorize.layers import grouped, weight_of
from workbench.factorize.shape import error_of
from workbench.graph.trace import trace
from workbench.moments import Moments

METHODS: list[Method] = [WeightSVD(), WeightSVD(point_first=True), SpatialSVD(), Tucker()]


@dataclass(frozen=True)
class Case:
    """A layer, the input it reads, and the sizes of its input and output."""

    name: str
    make: Callable[[], Any]
    inputs: tuple[int, ...]
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    rows: int = 1


CASES = [
    Case("linear", lambda: nn.Linear(7, 5), (3, 7)),
    Case("linear on sequences", lambda: nn.Linear(7, 12, bias=False), (3, 6, 7), rows=6),
    Case("1x1", lambda: nn.Conv2d(6, 9, 1), (2, 6, 5, 4), (5, 4), (5, 4)),
    Case("1x1 strided", lambda: nn.Conv2d(6, 9, 1, stride=2), (2, 6, 5, 4), (5, 4), (3, 2)),
    Case("3x3", lambda: nn.Conv2d(4, 8, 3, padding=1), (2, 4, 6, 5), (6, 5), (6, 5)),
    Case("strided", lambda: nn.Conv2d(4, 8, 3, stride=2, padding=1), (2, 4, 9, 8), (9, 8), (5, 4)),
    Case("strides apart", lambda: nn.Conv2d(4, 6, (3, 5), (1, 2), (0, 2)), (2, 4, 9, 8), (9, 8), (7, 4)),
    Case("dilated", lambda: nn.Conv2d(4, 6, 3, padding=(2, 1), dilation=(2, 1)), (2, 4, 9, 8), (9, 8), (9, 8)),
    Case("same", lambda: nn.Conv2d(4, 6, (3, 5), padding="same", dilation=2), (2, 4, 9, 8), (9, 8), (9, 8)),
    Case("valid", lambda: nn.Conv2d(4, 6, 3, padding="valid"), (2, 4, 9, 8), (9, 8), (7, 6)),
    Case("reflect", lambda: nn.Conv2d(4, 6, 3, 2, 1, padding_mode="reflect"), (2, 4, 9, 8), (9, 8), (5, 4)),
    Case("circular", lambda: nn.Conv2d(4, 6, 3, 1, 1, padding_mode="circular"), (2, 4, 9, 8), (9, 8), (9, 8)),
    Case("replicate", lambda: nn.Conv2d(4, 6, 3, 1, 1, padding_mode="replicate"), (2, 4, 9, 8), (9, 8), (9, 8)),
    Case("grouped", lambda: nn.Conv2d(8, 12, 3, padding=1, groups=2), (2, 8, 6, 5), (6, 5), (6, 5)),
    Case("grouped, strided", lambda: nn.Conv2d(8, 4, 3, stride=2, groups=4), (2, 8, 7, 5), (7, 5), (3, 2)),
    Case("1d", lambda: nn.Conv1d(4, 8, 5, 2, 2, bias=False), (2, 4, 11), (11,), (6,)),
    Case("3d", lambda: nn.Conv3d(3, 4, (2, 3, 3), padding=(0, 1, 1)), (2, 3, 4, 5, 5), (4, 5, 5), (3, 5, 5)),
]  # fmt: skip
PAIRS = [
    (case, method)
    for case in CASES
    for layer in [case.make()]
    for method in METHODS
    if not method.unfit(Shape.of(layer.weight, getattr(layer, "groups", 1)))
]
each_pair = pytest.mark.parametrize(("case", "method"), PAIRS, ids=lambda p: getattr(p, "name", None))


def shape_of(module: Any) -> Shape:
    return Shape.of(module.weight, getattr(module, "groups", 1))


@each_pair
def test_full_rank_is_the_layer(case: Case, method: Method) -> None:
    torch.manual_seed(0)
    layer, x = case.make(), torch.randn(case.inputs)
    split = factorized(layer, Form(method, method.full(shape_of(layer))))
    torch.testing.assert_close(split(x), layer(x), atol=1e-5, rtol=0)
    if method.full(shape_of(layer)) == 1:
        return
    below = factorized(layer, Form(method, max(1, method.full(shape_of(layer)) // 2)))
    assert not torch.allclose(below(x), layer(x), atol=1e-3)


@each_pair
def test_costs_are_what_the_made_modules_cost(case: Case, method: Method) -> None:
    layer, shape = case.make(), shape_of(case.make())
    for rank in {1, max(1, method.full(shape) // 2), method.full(shape)}:
        stages = method.stages(shape, rank)
        counted = count(factorized(layer, Form(method, rank)), torch.zeros(case.inputs))
        assert counted.macs == macs_of(shape, stages, case.before, case.after, case.rows)
        assert counted.params == params_of(shape, stages) + (0 if layer.bias is None else len(layer.bias))


@each_pair
def test_composed_factors_are_one_layer_again(case: Case, method: Method) -> None:
    torch.manual_seed(0)
    layer, x = case.make(), torch.randn(case.inputs)
    split = factorized(layer, Form(method, max(1, method.full(shape_of(layer)) // 2)))
    with torch.no_grad():
        layer.weight.copy_(weight_of(split))
    torch.testing.assert_close(split(x), layer(x), atol=1e-5, rtol=0)


def test_a_rank_for_each_of_aimets_published_layers() -> None:
    """A 5 x 5 convolution of stride 2 on 28 x 28: rank 40 halves its multiplications, with the stride where it is."""
    layer, x = nn.Conv2d(32, 64, 5, stride=2, padding=2), torch.zeros(1, 32, 28, 28)
    assert count(layer, x).macs == 10_035_200
    split = factorized(layer, Form(SpatialSVD(), 40))
    # 32 x 40 x 5 at 14 x 28 places, 40 x 64 x 5 at 14 x 14
    assert count(split, x).macs == 32 * 40 * 5 * 14 * 28 + 40 * 64 * 5 * 14 * 14 == 5_017_600


@dataclass(frozen=True)
class Drawn:
    """A random layer with inputs that are correlated as a network's are."""

    weight: Tensor
    rows: Tensor
    rank: int
    method: Method

    @property
    def metric(self) -> Tensor:
        return self.rows.mT @ self.rows


def drawn(seed: int, method: Method, rank: float) -> Drawn:
    generator = torch.Generator().manual_seed(seed)
    size = lambda low, high: int(torch.randint(low, high, (), generator=generator))  # noqa: E731
    shape = Shape(size(1, 3), size(2, 9), size(2, 7), (size(2, 4), size(2, 4)))
    weight = torch.randn(shape.groups, shape.outputs, shape.inputs, *shape.kernel, generator=generator).double()
    columns = weight[0, 0].numel()
    mixed = torch.randn(shape.groups, columns, columns, generator=generator).double()
    scales = torch.logspace(0, -size(0, 4), columns).double()
    rows = torch.randn(shape.groups, 3 * columns, columns, generator=generator).double() * scales @ mixed
    most = method.full(shape)
    return Drawn(weight, rows, max(1, min(most, round(rank * most))), method)


@settings(max_examples=500, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(METHODS), st.floats(0.05, 1))
def test_data_aware_is_never_above_plain(seed: int, method: Method, share: float) -> None:
    """However soon the descent ends."""
    some = drawn(seed, method, share)
    plain, aware = (
        error_of(some.weight - compose(method.factors(some.weight, some.rank, metric, steps=15)), some.metric)
        for metric in (None, some.metric)
    )
    assert aware <= plain * (1 + 1e-9) + 1e-12 * error_of(some.weight, some.metric)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(METHODS))
def test_errors_of_all_ranks_are_those_to_expect(seed: int, method: Method) -> None:
    """Of the closed form exactly; else of the dominant directions, less the same share at all ranks."""
    some = drawn(seed, method, 1)
    whole = error_of(some.weight, some.metric)
    most = method.full(Shape(len(some.weight), *some.weight.shape[1:3], tuple(some.weight.shape[3:])))
    through = torch.randn(len(some.weight), some.weight.shape[1], 3).double()
    errors = method.errors(some.weight, some.metric, most, through)
    assert errors.shape == (most, 2)
    torch.testing.assert_close(errors[:, 0], method.errors(some.weight, some.metric, most))
    middle = (most + 1) // 2
    error, into = output_error(method, some.weight, some.metric, middle)
    left = error.left(into)
    for rank in {*range(1, most + 1, max(1, most // 4)), middle}:
        if isinstance(method, WeightSVD) and not method.point_first:
            difference = some.weight - compose(method.factors(some.weight, rank, some.metric))
            assert error_of(difference, some.metric) == pytest.approx(float(errors[rank - 1, 0]), abs=1e-7 * whole)
            seen = error_of(torch.einsum("goc...,gon->gnc...", difference, through), some.metric)
            assert seen == pytest.approx(float(errors[rank - 1, 1]), abs=1e-6 * whole)
        else:
            error, into = output_error(method, some.weight, some.metric, rank)
            start = bilinear.directions(error.weight)[:, :into]
            difference = error.weight - bilinear.composed((start, error.best(start[:, None])[:, 0]))
            lost = error_of(difference, error.metric)
            assert float(errors[rank - 1, 0]) == pytest.approx(left * lost, abs=1e-7 * whole)
            seen = error_of(torch.einsum("gouj,gon->gnuj", difference, through), error.metric)
            assert float(errors[rank - 1, 1]) == pytest.approx(left * seen, abs=1e-6 * whole)
    fitted = error_of(some.weight - compose(method.factors(some.weight, middle, some.metric)), some.metric)
    assert fitted <= errors[middle - 1, 0] + 1e-7 * whole


def output_error(method: Method, weight: Tensor, metric: Tensor, rank: int) -> tuple[bilinear.OutputError, int]:
    """Of the form at this rank, and how many directions its first stage has."""
    shape = Shape(len(weight), *weight.shape[1:3], tuple(weight.shape[3:]))
    into, outputs = method.ranks(shape, rank) if isinstance(method, Tucker) else (rank, None)
    flat = weight.flatten(2, 3) if isinstance(method, SpatialSVD) else weight.flatten(3)
    return bilinear.OutputError.of(flat, metric, outputs), into


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_moments_that_are_not_finite_are_refused(bad: float) -> None:
    moments = Moments.empty(1, 3, 2)
    moments.add(torch.randn(1, 9, 3), torch.randn(1, 9, 2))
    moments.xx[0, 1, 1] = bad
    with pytest.raises(ValueError, match="not finite; scale the inputs"):
        metric_of(moments)


def test_errors_of_wide_layers_are_told_between_some_ranks() -> None:
    """By straight lines and in float32: never far from what is told at each rank."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(1, 60, 60, 3, 3, generator=generator).double()
    rows = torch.randn(2000, 540, generator=generator).double() * torch.logspace(0, -2, 540).double()
    method, metric = Tucker(), (rows.mT @ rows)[None]
    assert metric.shape[1] > bilinear.WIDE
    told = method.errors(weight, metric, 60)
    assert len(told) == 60 > tucker.RANKS
    assert (told[:-1] >= told[1:]).all()
    left = bilinear.OutputError.of(weight.flatten(3), metric, 30).left(30)
    for rank in (1, 7, 22, 41, 60):
        error = bilinear.OutputError.of(weight.flatten(3), metric, rank)
        start = error(bilinear.directions(error.weight)[:, None, :rank])[0].sum()
        assert float(told[rank - 1]) == pytest.approx(float(start) * left, rel=0.03, abs=1e-5 * float(told[0]))


@pytest.mark.parametrize("seed", range(5))
def test_closed_form_is_what_long_alternating_least_squares_finds(seed: int) -> None:
    some = drawn(seed, WeightSVD(), 0.5)
    flat = some.weight.flatten(2)
    into = torch.randn(len(flat), some.rank, flat.shape[2]).double()
    for _ in range(3000):
        out = torch.linalg.solve(into @ some.metric @ into.mT, into @ some.metric @ flat.mT).mT
        into = torch.linalg.solve(out.mT @ out, out.mT @ flat)
    long = error_of(flat - out @ into, some.metric)
    ours = error_of(some.weight - compose(WeightSVD().factors(some.weight, some.rank, some.metric)), some.metric)
    assert ours <= long * (1 + 1e-6)
    assert long <= ours * (1 + 1e-6)


@pytest.fixture(scope="module")
def trained() -> tuple[Tensor, Tensor]:
    """A layer of a trained network with the metric of what it reads."""
    graph = trace(zoo.load("resnet20"), data.fashion_mnist("calibration")[0][:2])
    statistics = calibrate(graph, data.fashion_mnist("calibration")[0][:64], rows=4000)
    layer = next(layer for layer in graph.layers if layer.name == "blocks.3.conv1")
    return grouped(graph.program.tensors[layer.weight], 1), metric_of(statistics.layers[layer.name].all)


def from_random_starts(method: Method, weight: Tensor, metric: Tensor, rank: int, starts: int = 30) -> float:
    """The least error that long descents from random inputs of the first stage find, all groups from the same one."""
    error, into = output_error(method, weight, metric, rank)
    generator = torch.Generator().manual_seed(99)
    drawn = torch.randn(len(weight), starts, error.weight.shape[2], into, generator=generator).double()
    _, values = descend(error, error.balanced(torch.linalg.qr(drawn).Q.mT), 400)
    return float(values.sum(0).min())


@pytest.mark.parametrize("weights", ["trained", "random"])
@pytest.mark.parametrize("method", METHODS[1:], ids=lambda method: method.name)
def test_random_starts_do_not_beat_ours(method: Method, weights: str, trained: tuple[Tensor, Tensor]) -> None:
    """Nor does the plain decomposition come near, on a trained layer."""
    weight, metric = trained
    if weights == "random":
        weight = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)).double()
    rank = method.full(Shape(1, *weight.shape[1:3], tuple(weight.shape[3:]))) // 4
    ours, plain = (error_of(weight - compose(method.factors(weight, rank, m)), metric) for m in (metric, None))
    start = error_of(weight - compose(method.factors(weight, rank, metric, steps=0)), metric)
    assert ours <= 1.01 * from_random_starts(method, weight, metric, rank)
    assert ours < 0.99 * start
    assert ours < 0.75 * plain


@pytest.mark.parametrize("method", METHODS[1:], ids=lambda method: method.name)
def test_random_starts_hardly_ever_beat_ours_on_small_layers(method: Method) -> None:
    """Small layers with strongly correlated inputs have many local minima, some of which one start in thirty finds."""
    ratios = []
    for seed in range(30):
        some = drawn(seed, method, 0.35)
        ours = error_of(some.weight - compose(method.factors(some.weight, some.rank, some.metric)), some.metric)
        whole = error_of(some.weight, some.metric)
        ratios.append((ours + 1e-9 * whole) / (from_random_starts(method, some.weight, some.metric, some.rank)
                                               + 1e-9 * whole))  # fmt: skip
    assert sum(ratio > 1.01 for ratio in ratios) <= 1
    assert max(ratios) < 1.1


def test_the_bias_takes_up_the_mean() -> None:
    """With the metric of an intercept, a constant part of the inputs costs nothing."""
    torch.manual_seed(0)
    rows = torch.randn(200, 6) @ torch.randn(6, 6) + 100
    layer = nn.Linear(6, 5)
    moments = Moments.empty(1, 6, 5)
    moments.add(rows[None], layer(rows).detach()[None])
    weight, wanted = grouped(layer.weight, 1), layer(rows).detach()
    errors = []
    for intercept in (True, False):
        factors = WeightSVD().factors(weight, 2, metric_of(moments, intercept))
        made = rows @ compose(factors)[0].float().T
        errors.append((wanted - made - (wanted - made).mean(0)).square().sum())
        if intercept:
            told = WeightSVD().errors(weight, metric_of(moments), 2)[-1]
            assert float(errors[0]) == pytest.approx(float(told), rel=1e-3)
    assert errors[0] < 0.99 * errors[1]


def test_what_cannot_be_factorised_says_why() -> None:
    depthwise = nn.Conv2d(8, 8, 3, groups=8)
    for method in METHODS:
        with pytest.raises(ValueError, match="depthwise"):
            factorized(depthwise, Form(method, 1))
    with pytest.raises(ValueError, match="two dimensions"):
        factorized(nn.Conv1d(4, 4, 3), Form(SpatialSVD(), 1))
    with pytest.raises(ValueError, match="give 1 to 12"):
        factorized(nn.Conv2d(4, 8, 3), Form(SpatialSVD(), 13))
    with pytest.raises(ValueError, match="no kernel"):
        factorized(nn.Linear(4, 8), Form(Tucker(), 1))


def test_factors_train_and_export_as_any_layer() -> None:
    layer = nn.Conv2d(4, 8, 3, padding=1).requires_grad_(False).train()
    split = factorized(layer, Form(Tucker(), 3))
    assert split.training
    assert not any(p.requires_grad for p in split.parameters())
    split.requires_grad_(True)
    split(torch.randn(2, 4, 5, 5)).sum().backward()
    assert all(p.grad is not None for p in split.parameters())
    program = torch.export.export(split.eval(), (torch.randn(2, 4, 5, 5),))
    assert sum("conv2d" in str(node.target) for node in program.graph.nodes) == 3
