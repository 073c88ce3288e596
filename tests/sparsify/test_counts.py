"""Exactly so many leave: every pattern, scope, amount and tie; shapes that do not divide are refused."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import workbench as wb
from workbench import sparsify as sp
from workbench.sparsify.scopes import _filled


def net(equal: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3, groups=2), nn.ConvTranspose2d(4, 8, 2), nn.Flatten(),
        nn.Linear(72, 12),
    )  # fmt: skip
    if equal:
        for parameter in model.parameters():
            nn.init.ones_(parameter)
    return model


def gone(mask: Tensor) -> int:
    return int((~mask).sum())


SIZES = {"0.weight": 288, "2.weight": 144, "3.weight": 128, "5.weight": 864}
PATTERNS: dict[str, tuple[sp.Pattern, dict[str, tuple[int, int]]]] = {
    "elements": (sp.Elements(), {name: (size, 1) for name, size in SIZES.items()}),
    "rows": (sp.rows(), {"0.weight": (8, 36), "2.weight": (4, 36), "3.weight": (8, 16), "5.weight": (12, 72)}),
    "columns": (sp.columns(), {"0.weight": (4, 72), "2.weight": (4, 36), "3.weight": (4, 32), "5.weight": (72, 12)}),
    "blocks": (sp.Blocks(4, 1), {name: (size // 4, 4) for name, size in SIZES.items()}),
    "wide blocks": (sp.Blocks(2, 4), {name: (size // 8, 8) for name, size in SIZES.items()}),
}


@pytest.mark.parametrize("equal", [False, True], ids=["", "all equal"])
@pytest.mark.parametrize("pattern", PATTERNS)
@given(amount=st.one_of(st.floats(0, 1), st.integers(0, 4)))
@settings(max_examples=12, deadline=None)
def test_each_layer_loses_exactly(pattern: str, equal: bool, amount: float) -> None:
    arrangement, units = PATTERNS[pattern]
    masks = sp.prune(net(equal), amount, sp.Rule(pattern=arrangement))
    for name, (count, size) in units.items():
        asked = amount if isinstance(amount, int) else round(amount * count)
        assert gone(masks[name]) == asked * size


@pytest.mark.parametrize("equal", [False, True], ids=["", "all equal"])
@pytest.mark.parametrize("scope", [sp.Together(), sp.Together(0.1, 0.7), sp.Erk()], ids=repr)
@pytest.mark.parametrize("pattern", ["elements", "rows", "blocks"])
@given(amount=st.floats(0.2, 0.6))
@settings(max_examples=6, deadline=None)
def test_all_together_lose_exactly(pattern: str, scope: sp.Scope, equal: bool, amount: float) -> None:
    arrangement, units = PATTERNS[pattern]
    masks = sp.prune(net(equal), amount, sp.Rule(pattern=arrangement, scope=scope))
    lost = {name: gone(masks[name]) // size for name, (_, size) in units.items()}
    assert {name: gone(mask) for name, mask in masks.items()} == {n: lost[n] * size for n, (_, size) in units.items()}
    assert sum(lost.values()) == round(amount * sum(count for count, _ in units.values()))
    if isinstance(scope, sp.Together):
        for name, (count, _) in units.items():
            assert round(scope.minimum * count) <= lost[name] <= round(scope.maximum * count)


def test_ties_go_by_their_place() -> None:
    masks = sp.prune(net(equal=True), 10, sp.Rule(layers=("0",)))
    assert (~masks["0.weight"]).flatten().nonzero().flatten().tolist() == list(range(10))


def test_limits_clamp_and_the_others_make_up() -> None:
    model = net()
    model[0].weight.data *= 1e-3  # type: ignore[operator]  # alone, it would lose nearly all
    free = sp.prune(model, 0.3, sp.Rule(scope=sp.Together()))
    clamped = sp.prune(model, 0.3, sp.Rule(scope=sp.Together(minimum=0.05, maximum=0.5)))
    assert gone(free["0.weight"]) > 0.95 * 288
    assert gone(clamped["0.weight"]) == 144
    assert sum(map(gone, clamped.values())) == sum(map(gone, free.values()))
    with pytest.raises(ValueError, match=r"1282 of 1424 units shall leave, and the layers' limits allow 0 to 712"):
        sp.prune(model, 0.9, sp.Rule(scope=sp.Together(maximum=0.5)))


def test_sets_of_layers_compete_among_themselves() -> None:
    masks = sp.prune(net(), 0.25, sp.Rule(scope=sp.Together(sets=(("0.*", "2.*"), ("*",)))))
    assert gone(masks["0.weight"]) + gone(masks["2.weight"]) == round(0.25 * 432)
    assert gone(masks["3.weight"]) + gone(masks["5.weight"]) == round(0.25 * 992)
    with pytest.raises(ValueError, match=r"3.weight is in none of the sets"):
        sp.prune(net(), 0.25, sp.Rule(scope=sp.Together(sets=(("0.*", "2.*"), ("5.*",)))))


def test_erk_densities_by_hand() -> None:
    """Two layers: [8, 4, 3, 3] has (8+4+3+3)/288, [12, 72] has 84/864; half of 1152 stays, in that proportion."""
    masks = sp.prune(net(), 0.5, sp.Rule(scope=sp.Erk(), layers=("0", "5")))
    scale = 576 / (18 + 84)
    assert [int(mask.sum()) for mask in masks.values()] == [round(18 * scale), round(84 * scale)]
    dense = sp.prune(net(), 0.1, sp.Rule(scope=sp.Erk(), layers=("0", "5")))
    assert dense["0.weight"].sum() < 288
    assert dense["5.weight"].all() or gone(dense["0.weight"]) + gone(dense["5.weight"]) == 115


@given(
    st.lists(st.tuples(st.floats(0.01, 10), st.integers(0, 50)), min_size=1, max_size=6).flatmap(
        lambda some: st.tuples(st.just(some), st.integers(0, sum(most for _, most in some)))
    )
)
@settings(max_examples=200, deadline=None)
def test_filled_shares_out_all(case: tuple[list[tuple[float, int]], int]) -> None:
    some, number = case
    found = _filled([weight for weight, _ in some], [most for _, most in some], number)
    assert sum(found) == number
    assert all(0 <= own <= most for own, (_, most) in zip(found, some, strict=True))


def test_shares_by_name_and_from_a_plan() -> None:
    masks = sp.prune(net(), 1.0, sp.Rule(scope=sp.Shares({"0*": 0.25, "*": 0.5})))
    assert gone(masks["0.weight"]) == 72
    assert gone(masks["5.weight"]) == 432
    halfway = sp.prune(net(), 0.5, sp.Rule(scope=sp.Shares({"0*": 0.25, "*": 0.5})))
    assert gone(halfway["0.weight"]) == 36
    with pytest.raises(ValueError, match=r"no share is given for 2.weight"):
        sp.prune(net(), 1.0, sp.Rule(scope=sp.Shares({"0*": 0.25})))


def test_shares_of_an_allocation() -> None:
    """What the exact solver decides under a budget is masked in the same groups, in the same numbers."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4))
    model = model.eval()
    x = torch.randn(16, 1, 7, 7)
    study = wb.Study(model, x[:2], calibration=[x], refinement=None)
    plan = study.allocate(wb.Budget(macs=0.5), mode="predicted")
    rule = sp.Rule(pattern=sp.Channels(), scope=sp.Shares.of(plan))
    masks = sp.prune(model, 1.0, rule, graph=study.graph)
    for name, kept in plan.kept.items():
        assert int(masks[f"{name}.weight"].flatten(1).any(1).sum()) == len(kept)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (4, 8), (1, 2), (3, 4)])
@pytest.mark.parametrize("equal", [False, True])
def test_n_of_m_along_the_inputs(n: int, m: int, equal: bool) -> None:
    model = nn.Sequential(nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(24, 4), nn.ConvTranspose1d(16, 8, 3, groups=2))
    if equal:
        model[0].weight.data.fill_(1)  # type: ignore[operator]
    masks = sp.prune(model, (m - n) / m, sp.Rule(pattern=sp.NofM(n, m)))
    conv = masks["0.weight"]
    for out in range(6):
        for place in range(9):
            groups = conv[out].flatten(1)[:, place].view(-1, m)  # channels side by side at one place of the kernel
            assert (groups.sum(1) == n).all()
    assert (masks["2.weight"].view(-1, m).sum(1) == n).all()
    transposed = masks["3.weight"]  # [in, out / groups, kernel]: the inputs come first, in two groups
    assert (transposed.view(2, 8 // m, m, 4, 3).sum(2) == n).all()


def test_n_of_m_keeps_the_best_of_each_group() -> None:
    model = nn.Sequential(nn.Linear(8, 1, bias=False))
    model[0].weight.data = torch.tensor([[4.0, 3, 2, 1, 5, 6, 7, 8]])
    masks = sp.prune(model, 0.5, sp.Rule(pattern=sp.NofM()))
    assert masks["0.weight"].tolist() == [[True, True, False, False, False, False, True, True]]
    milder = sp.prune(model, 0.25, sp.Rule(pattern=sp.NofM()))
    assert milder["0.weight"].tolist() == [[True, True, True, False, False, True, True, True]]


def test_by_row_compares_within_each_output() -> None:
    model = net()
    model[5].weight.data[0] *= 100  # type: ignore[operator]
    masks = sp.prune(model, 0.5, sp.Rule(pattern=sp.Elements(by_row=True)))
    assert ((~masks["5.weight"]).sum(1) == 36).all()
    assert ((~masks["0.weight"]).flatten(1).sum(1) == 18).all()


def test_blocks_are_blocks_of_the_matrix() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 3))
    masks = sp.prune(model, 0.5, sp.Rule(pattern=sp.Blocks(4, 2)))
    matrix = masks["0.weight"].permute(0, 2, 3, 1).reshape(8, 36)
    for i in range(0, 8, 4):
        for j in range(0, 36, 2):
            block = matrix[i : i + 4, j : j + 2]
            assert block.all() or not block.any()
    assert gone(matrix) == 144


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        (sp.NofM(4, 8), r"0.weight has 4 inputs, which 8 does not divide, so it cannot have 4:8; ignore this layer"),
        (sp.Blocks(5, 1), r"0.weight is a matrix of 8 x 36, which blocks of 5 x 1 do not divide"),
        (sp.Slices(4), r"0.weight has 4 dimensions and none numbered 4"),
    ],
    ids=repr,
)
def test_what_does_not_divide_is_refused(pattern: sp.Pattern, said: str) -> None:
    model = net()
    ignore = ("5",) if isinstance(pattern, sp.Slices) else ()
    with pytest.raises(ValueError, match=said):
        sp.prune(model, 0.5, sp.Rule(pattern=pattern, ignore=ignore))


@pytest.mark.parametrize(
    ("amount", "rule", "said"),
    [
        (1.5, sp.Rule(), "an amount of 1.5 is neither a share nor a number"),
        (-1, sp.Rule(), "an amount of -1 is neither"),
        (True, sp.Rule(), "an amount of True is neither"),
        (1000, sp.Rule(), "1000 units shall leave, and there are 288"),
        (0.75, sp.Rule(pattern=sp.NofM()), "3 of 4 units of 0.weight shall leave, and at most 2 may"),
        (0.5, sp.Rule(pattern=sp.NofM(), scope=sp.Together()), "compete in 72 sets of their own"),
        (0.5, sp.Rule(layers=("fo",)), "no layer or parameter is called 'fo'; the layers are 0, 2, 3, 5"),
        (0.5, sp.Rule(ignore=("00",)), "no layer or parameter is called '00'; did you mean '0'"),
        (0.5, sp.Rule(scope=sp.Shares({"*": 0.5})), ""),
        (3, sp.Rule(scope=sp.Shares({"*": 0.5})), "an amount of 3 units has no meaning with Shares"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(amount: float, rule: sp.Rule, said: str) -> None:
    if not said:
        sp.prune(net(), amount, rule)
        return
    with pytest.raises(ValueError, match=said):
        sp.prune(net(), amount, rule)


def test_a_parametrized_layer_is_refused_and_can_be_ignored() -> None:
    model = net()
    nn.utils.parametrizations.weight_norm(model[0])
    with pytest.raises(ValueError, match=r"0.weight is computed by a parametrization"):
        sp.prune(model, 0.5)
    assert "0.weight" not in sp.prune(model, 0.5, sp.Rule(ignore=("0",)))


def test_tied_weights_have_one_mask() -> None:
    model = nn.ModuleDict({"a": nn.Linear(6, 6), "b": nn.Linear(6, 6)})
    model["b"].weight = model["a"].weight
    masks = sp.prune(model, 0.5)
    assert list(masks) == ["a.weight"]
    sp.mask_(model, masks)
    assert torch.equal(model["b"].weight, model["a"].weight)
    assert model["b"].weight is model["a"].weight


def test_masking_is_exact() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].weight.data = torch.tensor([[float("nan"), float("inf")], [1e-42, -1.0]])
    sp.mask_(model, {"0.weight": torch.zeros(2, 2, dtype=torch.bool)})
    assert model[0].weight.tolist() == [[0, 0], [0, 0]]
    assert not torch.signbit(model[0].weight).any()
    sp.check(model, {"0.weight": torch.zeros(2, 2, dtype=torch.bool)})
    model[0].weight.data[0, 0] = 1e-42
    with pytest.raises(RuntimeError, match=r"1 masked weights of 0.weight are not zero"):
        sp.check(model, {"0.weight": torch.zeros(2, 2, dtype=torch.bool)})
    with pytest.raises(ValueError, match="no parameter of that name"):
        sp.mask_(model, {"1.weight": torch.zeros(2, 2, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"is torch.float32 \(2,\); it must be torch.bool \(2, 2\)"):
        sp.mask_(model, {"0.weight": torch.zeros(2)})


def test_heads_leave_through_their_group() -> None:
    model = wb.zoo.load("vit")
    graph = wb.trace(model, torch.zeros(2, 1, 28, 28))
    masks = sp.prune(model, 2, sp.Rule(pattern=sp.Channels(groups=("blocks.0.qkv",))), graph=graph)
    rows = masks["blocks.0.qkv.weight"].any(1).view(3, 6, 16)  # query, key, value; heads; features
    assert (rows == rows[:1, :, :1]).all()
    assert int((~rows[0, :, 0]).sum()) == 2


def test_what_is_gone_already_may_be_more_than_a_pattern_lets_leave() -> None:
    """Three of four inputs are masked before: 2:4 then has nothing to take there, and two elsewhere."""
    model = nn.Sequential(nn.Linear(8, 3))
    before = torch.ones(3, 8, dtype=torch.bool)
    before[:, :3] = False
    masks = sp.prune(model, 0.5, sp.Rule(pattern=sp.NofM()), masks={"0.weight": before})
    assert masks["0.weight"][:, :4].tolist() == [[False, False, False, True]] * 3
    assert masks["0.weight"][:, 4:].sum(1).tolist() == [2, 2, 2]


@pytest.mark.parametrize("share", [1.5, -0.1, True, "0.5", float("nan")])
def test_shares_are_shares(share: Any) -> None:
    with pytest.raises(ValueError, match=r"0.weight would lose .* of its units; give a share from 0 to 1"):
        sp.Shares({"0.weight": share})


def test_numbers_of_other_kinds_are_the_same_numbers() -> None:
    """An int is a share where only shares have a meaning; NumPy's numbers are Python's."""
    assert sp.Shares({"*": 1}) == sp.Shares({"*": 1.0})
    assert type(sp.Shares({"*": 1}).share("0.weight")) is float
    assert repr(sp.Shares({"*": np.float32(0.5)})) == repr(sp.Shares({"*": 0.5}))
    for other, same in ((np.float64(0.5), 0.5), (np.float32(0.5), 0.5), (np.int64(2), 2), (Fraction(1, 2), 0.5)):
        assert repr(sp.Absolute(other)) == repr(sp.Absolute(same))
        assert repr(sp.Further(other)) == repr(sp.Further(same))
    with pytest.raises(ValueError, match=r"an amount of .* is neither"):
        sp.Absolute(np.bool_(True))


def test_a_minimum_waits_for_the_amount() -> None:
    """On a ramp no layer loses more than its minimum before all can have it; then all have it. The total is exact."""
    model, masks = net(), dict[str, Tensor]()
    sizes = {name: mask.numel() for name, mask in sp.prune(model, 0.0).items()}
    rule = sp.Rule(scope=sp.Together(minimum=0.2, maximum=0.9))
    for share in np.linspace(0.001, 0.6, 40):
        masks = sp.prune(model, share, rule, masks=masks)
        lost = {name: gone(mask) for name, mask in masks.items()}
        assert sum(lost.values()) == round(share * sum(sizes.values()))
        least = {name: round(0.2 * size) for name, size in sizes.items()}
        if sum(lost.values()) < sum(least.values()):
            assert all(lost[name] <= least[name] for name in sizes)
        else:
            assert all(lost[name] >= least[name] for name in sizes)
