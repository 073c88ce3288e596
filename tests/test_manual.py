"""Plans by hand: ratios, ranks and channels of layers by name, pattern and type; layers that are to be ignored."""

from __future__ import annotations

from typing import Any

import numpy as np
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
    ({"2": wb.Ratio(0.9, "weight_svd", multiple=64)}, "2: at Ratio.* it would have the rank 64 and 1.11 times its"),
    ({"[2]": wb.Rank("weight_svd", 6), nn.Conv2d: wb.Rank("weight_svd", 7)},
     "2 is set to weight_svd of rank 6 and to weight_svd of rank 7; give it one setting, under its own name"),
    ({"6": [True] * 23}, "6 has 24 input channels, and its mask 23; give one of all"),
    ({"6": [False] * 24}, "6 would lose all its input channels"),
    ({"6": [-1, 3]}, "6 has no input channels \\[-1\\]"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "message"), WRONG, ids=[message[:30] for _, message in WRONG])
def test_what_cannot_be_set_says_why(study: wb.Study, settings: dict[Any, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        study.by_hand(settings)


KINDS: list[tuple[Any, str]] = [
    ({"2": 0.5}, "2 cannot be set to 0.5; give a Ratio, as Ratio\\(0.5\\), a Rank, or the list"),
    ({"6": [0.0, 1.0]}, "6 cannot keep the input channels \\[0.0, 1.0\\]; give whole numbers, or a mask"),
    ({"6": [True, 2]}, "6 cannot keep the input channels \\[True, 2\\]; give whole numbers, or a mask"),
    ({"6": torch.ones(2, 24, dtype=torch.bool)}, "6 cannot keep the input channels .* give whole numbers, or a mask"),
    ({6: wb.Ratio(0.5)}, "6 names no layers; give a name as 'features.3', a pattern"),
    ([("6", wb.Ratio(0.5))], "the settings .* are no dict; give one, as {'features.3': Ratio\\(0.5\\)}"),
]


@pytest.mark.parametrize(("settings", "message"), KINDS, ids=[message[:30] for _, message in KINDS])
def test_settings_of_another_kind(study: wb.Study, settings: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        study.by_hand(settings)


MASK = np.arange(24) > 20


@pytest.mark.parametrize(
    "stay",
    [MASK, MASK.tolist(), list(MASK), torch.from_numpy(MASK), torch.tensor([21, 22, 23]), np.array([21, 22, 23]),
     [torch.tensor(21), np.int64(22), 23], {23, 22, 21}],
    ids=lambda stay: f"{type(stay).__name__} {stay!r:.20}",
)  # fmt: skip
def test_channels_may_be_an_array_or_a_mask(study: wb.Study, stay: Any) -> None:
    assert study.by_hand({"6": stay}).kept == {"4": (21, 22, 23)}


class Joined(nn.Module):
    """A layer that reads two others, or one and the model's own input."""

    def __init__(self, width: int, both: bool = True) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(3, 8, 3, padding=1) if both else nn.Identity()
        self.c = nn.Conv2d(width, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(torch.cat([self.a(x).relu(), self.b(x)], 1)).mean((2, 3))


def studied(model: nn.Module, **options: Any) -> wb.Study:
    torch.manual_seed(0)
    x = torch.randn(16, 3, 6, 6)
    return wb.Study(model.eval(), x[:2], calibration=[x], refinement=None, **options)


def test_all_that_a_layer_reads_is_set() -> None:
    study = studied(Joined(16))
    plan = study.by_hand({"c": wb.Ratio(0.5)})
    assert {name: len(units) for name, units in plan.kept.items()} == {"a": 4, "b": 4}
    assert study.compress(plan).model.c.in_channels == 8  # type: ignore[union-attr]
    assert study.by_hand({"c": [0, 1, 8, 15]}).kept == {"a": (0, 1), "b": (0, 7)}
    with pytest.raises(ValueError, match="c would lose all input channels of the group b; name one that stays"):
        study.by_hand({"c": [0, 1]})


def test_what_is_frozen_of_it_stays() -> None:
    study = studied(Joined(11, both=False))
    assert study.by_hand({"c": [0, 5, 8, 9, 10]}).kept == {"a": (0, 5)}
    with pytest.raises(ValueError, match=r"c cannot lose the input channels \[9, 10\]; graph.frozen says why"):
        study.by_hand({"c": [0, 5, 8]})
    with pytest.raises(ValueError, match=r"c can have no ratio of input channels: \[8, 9, 10\] of 11 cannot leave"):
        study.by_hand({"c": wb.Ratio(0.5)})


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_channels_of_a_grouped_layer_are_those_that_it_reads(kind: type[nn.Module]) -> None:
    study = studied(nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), kind(16, 16, 3, groups=2), nn.Conv2d(16, 4, 1)))
    plan = study.by_hand({"2": [0, 1, 8, 9]})
    assert plan.kept == {"0": (0, 1)}
    assert study.compress(plan).model[2].in_channels == 4  # type: ignore[index, union-attr]
    with pytest.raises(ValueError, match=r"2 cannot keep the input channels \[0, 1\]: \[8, 9\] do not leave alone"):
        study.by_hand({"2": [0, 1]})


def test_a_layers_own_name_goes_before_patterns_and_types(study: wb.Study) -> None:
    for settings in (
        {"2": wb.Rank("weight_svd", 2), "[24]": wb.Rank("weight_svd", 5)},
        {"[24]": wb.Rank("weight_svd", 5), "2": wb.Rank("weight_svd", 2)},
    ):
        assert {name: rank.rank for name, rank in study.by_hand(settings).ranks.items()} == {"2": 2, "4": 5}
    kept = study.by_hand({"[46]": wb.Ratio(0.5), "6": wb.Ratio(0.25)}).kept
    assert {name: len(units) for name, units in kept.items()} == {"2": 32, "4": 6}


@pytest.mark.parametrize("options", [{"methods": wb.Methods(spatial_svd=False, weight_svd=False, tucker=False)},
                                     {"ignore": ["2"]}], ids=repr)  # fmt: skip
def test_what_the_search_leaves_alone_has_a_predicted_loss(study: wb.Study, options: dict[str, Any]) -> None:
    plain = study.by_hand({"2": wb.Rank("spatial_svd", 20)}).degradation
    other = wb.Study(study.model, study.example_inputs, calibration=study.calibration, refinement=None, **options)
    assert other.by_hand({"2": wb.Rank("spatial_svd", 20)}).degradation == pytest.approx(plain, rel=1e-6)
    assert plain > 0


def test_a_plan_by_hand_is_not_undone(study: wb.Study) -> None:
    with pytest.raises(ValueError, match="so that a refinement would undo the plan; give a Budget"):
        study.refine(study.by_hand({"6": wb.Ratio(0.5)}), evaluations=20)


@pytest.mark.parametrize(
    ("ignore", "said"),
    [("2", r"ignore='2' is no list; give names, .* in one, as \['2'\]"), (nn.Linear, r"ignore=Linear is no list"),
     ([2], "2 names no layers"), (None, "ignore=None is no list")],
)  # fmt: skip
def test_what_is_to_be_ignored_is_a_list(ignore: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        studied(net(), ignore=ignore)


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
