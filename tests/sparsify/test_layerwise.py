"""SparseGPT, OBC and what is refitted, against the optimal brain surgeon by direct inverses on small layers."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workbench import sparsify as sp
from workbench.sparsify.layerwise.obc import Obc
from workbench.sparsify.layerwise.problem import Method, Problem
from workbench.sparsify.layerwise.refit import refitted, solved
from workbench.sparsify.layerwise.scored import Scored
from workbench.sparsify.layerwise.sparse_gpt import SparseGpt, inverse_factor

METHODS: dict[str, Method] = {"sparse_gpt": SparseGpt(block=8), "obc": Obc(), "wanda": Scored(sp.Wanda())}


def problem(groups: int = 1, outputs: int = 4, columns: int = 12, seed: int = 0) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(groups, outputs, columns, generator=generator, dtype=torch.float64)
    mixing = torch.randn(groups, columns, columns, generator=generator, dtype=torch.float64)
    rows = torch.randn(groups, 5 * columns, columns, generator=generator, dtype=torch.float64) @ mixing
    moments = rows.mT @ rows / rows.shape[1]
    inputs = torch.diagonal(moments, dim1=1, dim2=2)
    return Problem("layer", weight, moments, inputs, torch.zeros(weight.shape, dtype=torch.bool))


def surgeon(weight: Tensor, kept: Tensor, matrix: Tensor) -> Tensor:
    """OBS column by column: what is left of the column is settled, the right takes up what leaves; direct inverses."""
    weight = weight.clone()
    for column in range(len(weight)):
        inverse = torch.linalg.inv(matrix[column:, column:])
        if not kept[column]:
            weight[column:] = weight[column:] - weight[column] / inverse[0, 0] * inverse[0]
    return weight * kept


def best(weight: Tensor, kept: Tensor, matrix: Tensor) -> Tensor:
    """The joint update of OBS, by the direct inverse."""
    inverse, gone = torch.linalg.inv(matrix), (~kept).nonzero().flatten()
    small = inverse[gone][:, gone]
    return weight - inverse[:, gone] @ torch.linalg.solve(small, weight[gone])


PATTERNS = [sp.Elements(), sp.Elements(by_row=True), sp.NofM(2, 4), sp.NofM(1, 4), sp.Blocks(2, 2), sp.Blocks(1, 4)]


@pytest.mark.parametrize("pattern", PATTERNS, ids=repr)
@pytest.mark.parametrize("block", [1, 4, 8, 128])
def test_sparse_gpt_is_the_surgeon(pattern: sp.Pattern, block: int) -> None:
    """Whatever leaves, the update is that of OBS by direct inverses, to 1e-8."""
    given_ = problem(groups=2)
    found = SparseGpt(block)(given_, pattern, sp.Absolute(0.5))
    matrix = given_.damped(0.01)
    for group in range(2):
        for row in range(4):
            wanted = surgeon(given_.weight[group, row], found.kept[group, row], matrix[group])
            assert torch.allclose(found.weight[group, row], wanted, rtol=0, atol=1e-8)


@pytest.mark.parametrize("pattern", PATTERNS, ids=repr)
@pytest.mark.parametrize("method", METHODS)
@given(amount=st.floats(0, 0.5), equal=st.booleans(), seed=st.integers(0, 50))
@settings(max_examples=15, deadline=None)
def test_exactly_so_many_leave(method: str, pattern: sp.Pattern, amount: float, equal: bool, seed: int) -> None:
    if method == "obc" and isinstance(pattern, sp.Blocks):
        return
    given_ = problem(groups=2, seed=seed)
    if equal:
        given_ = Problem("layer", torch.ones_like(given_.weight), torch.eye(12).double().repeat(2, 1, 1),
                         torch.ones(2, 12).double(), given_.gone)  # fmt: skip
    found = METHODS[method](given_, pattern, sp.Absolute(amount))
    cells = pattern.cells(given_.site, found.kept.flatten(0, 1))
    assert torch.equal(cells.any(-1), cells.all(-1))
    gone = (~cells.any(-1)).sum(1)
    assert gone.tolist() == [round(amount * cells.shape[1])] * len(cells)
    assert not found.weight[~found.kept].any()


@given(st.integers(0, 100), st.floats(0.3, 0.9), st.sampled_from(PATTERNS))
@settings(max_examples=20, deadline=None)
def test_what_is_gone_stays_so(seed: int, amount: float, pattern: sp.Pattern) -> None:
    """It counts towards the amount, and exactly so many are gone in the end."""
    amount = min(amount, 0.5) if isinstance(pattern, sp.NofM) and pattern.n == 2 else min(amount, 0.75)
    given_ = problem(seed=seed)
    before = Scored()(given_, pattern, sp.Absolute(0.25))
    for method in (SparseGpt(4), Scored(sp.Wanda()), *([] if isinstance(pattern, sp.Blocks) else [Obc()])):
        again = Problem("layer", before.weight, given_.moments, given_.inputs, ~before.kept)
        found = method(again, pattern, sp.Absolute(amount))
        assert not (found.kept & ~before.kept).any()
        cells = pattern.cells(given_.site, found.kept.flatten(0, 1)).any(-1)
        assert (~cells).sum(1).tolist() == [round(amount * cells.shape[1])] * len(cells)


def test_inverse_factor() -> None:
    matrix = problem(groups=3).moments
    factor = inverse_factor(matrix)
    assert torch.allclose(factor.mT @ factor, torch.linalg.inv(matrix), atol=1e-9)
    assert torch.equal(factor, factor.triu())


def test_wanda_and_magnitude_by_hand() -> None:
    """Per row, the least ``|w| * sqrt(mean x^2)``; magnitude knows nothing of the inputs."""
    given_ = problem(outputs=3, columns=8)
    wanda = Scored(sp.Wanda())(given_, sp.Elements(by_row=True), sp.Absolute(3))
    for row in range(3):
        worth = given_.weight[0, row].abs() * given_.inputs[0].sqrt()
        assert set((~wanda.kept[0, row]).nonzero().flatten().tolist()) == set(worth.argsort()[:3].tolist())
    assert torch.equal(wanda.weight, given_.weight * wanda.kept)
    magnitude = Scored()(given_, sp.Elements(), sp.Absolute(6))
    assert given_.weight[~magnitude.kept].abs().max() <= given_.weight[magnitude.kept].abs().min()


def test_obc_takes_the_cheapest_each_time() -> None:
    """One row: the same as recomputing every inverse, step by step; and the weights are the joint optimum."""
    given_ = problem(outputs=1, columns=8, seed=3)
    matrix, weight = given_.damped(0.01)[0], given_.weight[0, 0].clone()
    alive = list(range(8))
    for _ in range(5):
        inverse = torch.linalg.inv(matrix[alive][:, alive])
        place = int((weight[alive].square() / inverse.diagonal()).argmin())
        weight[alive] = weight[alive] - weight[alive[place]] / inverse[place, place] * inverse[place]
        del alive[place]
    found = Obc()(given_, sp.Elements(), sp.Absolute(5))
    assert found.kept[0, 0].nonzero().flatten().tolist() == alive
    kept = torch.zeros(8, dtype=torch.bool)
    kept[alive] = True
    assert torch.allclose(found.weight[0, 0], weight * kept, atol=1e-9)
    assert torch.allclose(found.weight[0, 0], best(given_.weight[0, 0], kept, matrix), atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_obc_gives_each_row_its_number(seed: int) -> None:
    """Rows that matter little give up more; brute force bounds one row from below."""
    given_ = problem(outputs=4, columns=8, seed=seed)
    given_.weight.mul_(torch.tensor([0.1, 0.5, 1.0, 3.0])[:, None])
    matrix = given_.damped(0.01)
    whole, each = (Obc()(given_, sp.Elements(by_row), sp.Absolute(0.5)) for by_row in (False, True))
    damped = Problem("layer", given_.weight, matrix, given_.inputs, given_.gone)
    assert damped.lost(whole.weight) < 0.7 * damped.lost(each.weight)
    sparse_gpt = SparseGpt()(given_, sp.Elements(by_row=True), sp.Absolute(0.5))
    assert damped.lost(each.weight) <= damped.lost(sparse_gpt.weight)
    row = Problem("layer", given_.weight[:, :1], matrix, given_.inputs, given_.gone[:, :1])
    least = min(
        row.lost(solved(row.weight[0], _mask(some, 8)[None], matrix[0])[None]) for some in combinations(range(8), 4)
    )
    assert row.lost(each.weight[:, :1]) >= least * (1 - 1e-9)


def _mask(kept: tuple[int, ...], size: int) -> Tensor:
    found = torch.zeros(size, dtype=torch.bool)
    found[list(kept)] = True
    return found


@given(st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_refitted_is_never_worse_and_ends_at_the_best(seed: int) -> None:
    given_ = problem(groups=2, seed=seed)
    matrix = given_.damped(0.01)
    damped = Problem("layer", given_.weight, matrix, given_.inputs, given_.gone)
    start = SparseGpt()(given_, sp.Elements(), sp.Absolute(0.5))
    losses = [
        damped.lost(refitted(given_.weight, start.weight, start.kept, matrix, steps)) for steps in (0, 1, 2, 5, 60)
    ]
    assert losses[0] == damped.lost(start.weight)
    assert all(after <= before * (1 + 1e-12) for before, after in pairwise(losses))
    exact = torch.stack([solved(*row) for row in zip(given_.weight, start.kept, matrix, strict=True)])
    assert losses[-1] == pytest.approx(damped.lost(exact), rel=1e-6)
    for group in range(2):
        wanted = best(given_.weight[group, 0], start.kept[group, 0], matrix[group])
        assert torch.allclose(exact[group, 0], wanted, atol=1e-9)


def test_dead_inputs_leave_first() -> None:
    given_ = problem()
    moments = given_.moments.clone()
    moments[:, 5], moments[:, :, 5] = 0, 0
    dead = Problem("layer", given_.weight, moments, given_.inputs, given_.gone)
    for method in (SparseGpt(), Obc()):
        assert not method(dead, sp.Elements(by_row=True), sp.Absolute(1)).kept[..., 5].any()


def test_refused() -> None:
    flat = problem()
    singular = Problem("fc", flat.weight, torch.ones_like(flat.moments), flat.inputs, flat.gone)
    with pytest.raises(ValueError, match=r"second moments of what fc reads are singular with damp=0"):
        SparseGpt(damp=0.0)(singular, sp.Elements(), sp.Absolute(0.5))
    with pytest.raises(ValueError, match=r"3 of 4 units of layer shall leave, and at most 2 may; .* at most 0.5"):
        SparseGpt()(flat, sp.NofM(2, 4), sp.Absolute(0.75))
    with pytest.raises(ValueError, match=r"Obc takes single weights, not Blocks"):
        Obc()(flat, sp.Blocks(2, 2), sp.Absolute(0.5))
    with pytest.raises(ValueError, match=r"needs gradient, and layer by layer there are inputs alone"):
        Scored(sp.Taylor())
