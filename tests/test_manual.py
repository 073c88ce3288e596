"""Plans by hand: ratios, ranks and channels of layers by name, pattern and type; layers that are to be ignored."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import workbench as wb
from workbench.select import Elimination, GroupView, Path


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(),
        nn.Conv2d(64, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 8, 1), nn.Flatten(), nn.Linear(8 * 16, 10),
    )  # fmt: skip


@pytest.fixture(scope="module")
def study() -> wb.Study:
    torch.manual_seed(0)
    x = torch.randn(16, 3, 4, 4)
    return wb.Study(net().eval(), x[:2], calibration=x.split(8), refinement=None)


def test_the_published_ranks() -> None:
    """ResNet-18's layers of 64 and 128 channels at half and 0.4 of their multiplications, in eights."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 128, 1), nn.ReLU(),
                          nn.Conv2d(128, 128, 3, padding=1)).eval()  # fmt: skip
    study = wb.Study(model, torch.randn(2, 64, 3, 3), calibration=[torch.randn(8, 64, 3, 3)], refinement=None)
    plan = study.by_hand({
        "0": wb.Ratio(0.5, "spatial_svd", multiple=8, rounding="up"),
        "4": wb.Ratio(0.4, "spatial_svd", multiple=8, rounding="up"),
    })  # fmt: skip
    assert {name: rank.rank for name, rank in plan.ranks.items()} == {"0": 48, "4": 80}
    small = study.compress(plan)
    assert small.model[0][0].weight.shape == (48, 64, 3, 1)  # type: ignore[index, union-attr]
    assert small.model[4][1].weight.shape == (128, 80, 1, 3)  # type: ignore[index, union-attr]
    assert small.verification.ok


def test_the_published_widths(study: wb.Study) -> None:
    plan = study.by_hand({"2": wb.Ratio(0.3, multiple=8, rounding="up"), "6": wb.Ratio(0.3, multiple=8, rounding="up")})
    assert {name: len(units) for name, units in plan.kept.items()} == {"0": 24, "4": 8}
    assert study.compress(plan).model[2].weight.shape[1] == 24  # type: ignore[index, union-attr]


def test_a_share_of_the_multiplications_is_kept(study: wb.Study) -> None:
    for ratio in (0.9, 0.5, 0.2):
        small = study.compress(study.by_hand({"2": wb.Ratio(ratio, "tucker")}))
        (row,) = (row for row in small.layers() if row["layer"] == "2")
        assert 0.9 * ratio * row["macs"][0] < row["macs"][1] <= ratio * row["macs"][0]


def test_what_is_not_named_takes_no_time() -> None:
    """Of a large network, an order of all channels and the forms of all layers would take most of it."""
    seen = []

    def criterion(view: GroupView) -> Path:
        seen.append(view.group.name)
        return Elimination()(view)

    torch.manual_seed(0)
    x = torch.randn(16, 3, 4, 4)
    low = wb.Methods(channels=False)
    some = wb.Study(net().eval(), x[:2], calibration=[x], criterion=criterion, methods=low, refinement=None)
    assert some.by_hand({"2": wb.Rank("spatial_svd", 20)}).ranks["2"].place > 1
    assert not seen
    assert len(some.by_hand({"6": wb.Ratio(0.5)}).kept["4"]) == 12
    assert seen == ["4"]


def test_channels_that_are_named_stay(study: wb.Study) -> None:
    plan = study.by_hand({"6": [0, 5, 23]})
    assert plan.kept == {"4": (0, 5, 23)}
    small = study.compress(plan)
    assert small.model[6].in_channels == small.model[4].out_channels == 3  # type: ignore[index, union-attr]
    flat = study.by_hand({"8": range(16, 48)})  # two channels of 16 places
    assert flat.kept == {"6": (1, 2)}


def test_patterns_and_types(study: wb.Study) -> None:
    by_type = study.by_hand({nn.Conv2d: wb.Ratio(0.5, "weight_svd")})
    assert list(by_type.ranks) == ["0", "2", "4", "6"]
    assert list(study.by_hand({"[24]": wb.Rank("weight_svd", 5)}).ranks) == ["2", "4"]


WRONG: list[tuple[dict[Any, Any], str]] = [
    ({"conv*": wb.Ratio(0.5)}, "no layer is a 'conv\\*'; the layers are 0, 2, 4, 6, 8"),
    ({nn.LSTM: wb.Ratio(0.5)}, "no layer is a LSTM"),
    ({"0": wb.Ratio(0.5)}, "the input channels of 0 cannot leave"),
    ({"8": [0]}, "8 cannot keep the input channels \\[0\\]: \\[1, 2, .* do not leave alone"),
    ({"8": [0, 999]}, "8 has no input channels \\[999\\] that can leave or stay; the highest is "),
    ({"6": []}, "6 would lose all its input channels; name at least one that stays"),
    ({"6": wb.Rank("spatial_svd", 2)}, "6: spatial_svd does not fit this layer: it has 1 x 1"),
    ({"2": wb.Rank("weight_svd", 65)}, "2: weight_svd cannot have the rank 65 here; give 1 to 64"),
    ({"2": wb.Rank("svd", 6)}, "there is no method 'svd' among spatial_svd"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "message"), WRONG, ids=[message[:30] for _, message in WRONG])
def test_what_cannot_be_set_says_why(study: wb.Study, settings: dict[Any, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        study.by_hand(settings)


def test_a_bare_number_is_no_setting(study: wb.Study) -> None:
    with pytest.raises(TypeError, match=r"2 cannot be set to 0.5; give a Ratio, as Ratio\(0.5\), a Rank, or the list"):
        study.by_hand({"2": 0.5})  # type: ignore[dict-item]


@pytest.mark.parametrize("value", [0, -1, 1.5, float("nan")])
def test_ratios_are_shares(value: float) -> None:
    with pytest.raises(ValueError, match="is no share"):
        wb.Ratio(value)
    with pytest.raises(ValueError, match="choose from channels, spatial_svd"):
        wb.Ratio(0.5, "svd")


def test_settings_that_contradict_each_other() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.left, self.right = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.one(x).relu()
            return self.left(x) + self.right(x)

    study = wb.Study(Two().eval(), torch.randn(2, 4), calibration=[torch.randn(8, 4)])
    with pytest.raises(ValueError, match="right reads the same channels"):
        study.by_hand({"left": [0, 1], "right": [0, 2]})


def test_ignored_layers_stay_as_they_are(study: wb.Study) -> None:
    ignoring = wb.Study(
        study.model, study.example_inputs, calibration=study.calibration, methods=wb.Methods(), ignore=["2", nn.Linear]
    )
    sites, left = ignoring.sites
    assert "2" not in {site.layer.name for site in sites}
    assert any(one.layer == "2" and "ignored" in one.why for one in left)
    curves = {curve.group for curve in ignoring.sensitivity("predicted")}
    # 2 reads what 0 makes, and makes group 2; the linear layer reads group 6
    assert {name for name in curves if "/" not in name} == {"4"}
    assert {name for name in curves if "/" in name} <= {"0/rank", "4/rank", "6/rank"}
