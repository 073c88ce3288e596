"""Second moments gathered in pieces are those of the explicit rows."""

from __future__ import annotations

import pytest
import torch

from workbench.moments import COLUMNS, Moments


@pytest.fixture
def rows() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, 50, 4, dtype=torch.float64) + 1, torch.randn(2, 50, 3, dtype=torch.float64) - 2


def gathered(rows: torch.Tensor, targets: torch.Tensor, size: int) -> Moments:
    moments = Moments.empty(2, 4, 3)
    for some, wanted in zip(rows.split(size, 1), targets.split(size, 1), strict=True):
        moments.add(some, wanted)
    return moments


def test_sums_over_explicit_rows(rows: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, y = rows
    extended = torch.cat([x, torch.ones(2, 50, 1, dtype=torch.float64)], -1)
    for moments in (
        gathered(x, y, 50),
        gathered(x, y, 7),
        gathered(x[:, :20], y[:, :20], 9) + gathered(x[:, 20:], y[:, 20:], 4),
    ):
        torch.testing.assert_close(moments.xx, extended.mT @ extended)
        torch.testing.assert_close(moments.xy, extended.mT @ y)
        torch.testing.assert_close(moments.yy, y.square().sum(1))
        assert moments.count == 50


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_single(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(1, 300, 4).to(dtype), torch.randn(1, 300, 2).to(dtype)
    moments = Moments.empty(1, 4, 2)
    moments.add(x, y)
    torch.testing.assert_close(moments.xy[:, :-1], x.double().mT @ y.double(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(moments.xx[:, :-1, :-1], x.double().mT @ x.double(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [1, COLUMNS - 1, COLUMNS, 2 * COLUMNS + 3])
def test_all_blocks_of_a_wide_layer_are_there(size: int) -> None:
    x, y = torch.randn(1, 40, size, dtype=torch.float64), torch.randn(1, 40, 2, dtype=torch.float64)
    moments = Moments.empty(1, size, 2)
    moments.add(x[:, :15], y[:, :15])
    moments.add(x[:, 15:], y[:, 15:])
    extended = torch.cat([x, torch.ones(1, 40, 1, dtype=torch.float64)], -1)
    torch.testing.assert_close(moments.xx, extended.mT @ extended)
    torch.testing.assert_close(moments.xy, extended.mT @ y)


def test_parts_are_those_of_the_parts(rows: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, y = rows
    some = Moments.empty(2, 2, 3)
    some.add(x[..., [3, 1]], y)
    found = gathered(x, y, 50).of([3, 1])
    torch.testing.assert_close(vars(found), vars(some))
    few = Moments.empty(2, 4, 2)
    few.add(x, y[..., ::2])
    torch.testing.assert_close(vars(gathered(x, y, 50).outputs(slice(None, None, 2))), vars(few))


def test_error_is_that_of_the_rows(rows: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, y = rows
    solution = torch.randn(2, 5, 3, dtype=torch.float64)
    made = x @ solution[:, :-1] + solution[:, -1:]
    assert gathered(x, y, 8).error(solution) == pytest.approx((made - y).square().sum().item(), rel=1e-12)


def test_error_of_a_perfect_solution_is_never_negative(rows: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, _ = rows
    solution = torch.randn(2, 5, 3, dtype=torch.float64)
    moments = gathered(x, x @ solution[:, :-1] + solution[:, -1:], 8)
    assert 0 <= moments.error(solution) < 1e-9


def test_energy_is_the_spread_of_the_outputs(rows: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, y = rows
    spread = (y - y.mean(1, keepdim=True)).square().sum().item()
    assert gathered(x, y, 8).energy == pytest.approx(spread, rel=1e-12)
    assert gathered(x, torch.full_like(y, 3.0), 8).energy == pytest.approx(0, abs=1e-9)
    assert Moments.empty(1, 2, 3).energy == 0


def test_float32_rows_are_summed_in_float64() -> None:
    moments = Moments.empty(1, 1, 1)
    for _ in range(100):
        moments.add(torch.full((1, 1000, 1), 4097.0), torch.ones(1, 1000, 1))
    assert moments.xx.dtype == torch.float64
    assert moments.xx[0, 0, 0].item() == pytest.approx(100_000 * 4097.0**2, rel=1e-6)
    assert moments.xx[0, 1, 1] == moments.count == 100_000
