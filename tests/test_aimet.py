"""AIMET's names: its published numbers, and its defects put right."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import workbench as wb
from workbench import aimet
from workbench.aimet import CompressionScheme, CostMetric

IMAGES = torch.randn(64, 1, 28, 28, generator=torch.Generator().manual_seed(0))
LOADER = [(part, torch.zeros(16, dtype=torch.long)) for part in IMAGES.split(16)]


def mnist() -> nn.Sequential:
    """The network of AIMET's tests of costs, of 13,883,904 MACs."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 32, 5, padding=2), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(32, 64, 5, padding=2),
        nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(7 * 7 * 64, 1024), nn.ReLU(), nn.Linear(1024, 10),
    )  # fmt: skip


def small_net(width: int = 16) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.MaxPool2d(4), nn.ReLU(), nn.Conv2d(width, 24, 3, padding=1), nn.ReLU(),
        nn.Conv2d(24, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(7 * 7 * 16, 10),
    )  # fmt: skip


class Callback:
    """Scores a model by how near its outputs are to the original's; remembers what it was called with."""

    def __init__(self, model: nn.Module):
        with torch.no_grad():
            self.images, self.wanted = IMAGES[:16], model(IMAGES[:16])
        self.calls: list[tuple[int | None, bool]] = []

    def __call__(self, model: nn.Module, iterations: int | None, use_cuda: bool) -> float:
        self.calls.append((iterations, use_cuda))
        with torch.no_grad():
            return -float((model(self.images) - self.wanted).square().mean())


def pruning(params: Any, multiplicity: int = 1, downsample: bool = False) -> aimet.ChannelPruningParameters:
    kind = aimet.ChannelPruningParameters
    mode = kind.Mode.manual if isinstance(params, kind.ManualModeParams) else kind.Mode.auto
    return kind(LOADER, 500, downsample, mode, params, multiplicity)


def by_hand(*pairs: tuple[nn.Module, float]) -> Any:
    return aimet.ChannelPruningParameters.ManualModeParams([aimet.ModuleCompRatioPair(*pair) for pair in pairs])


def target(share: float, ignore: list[nn.Module] | None = None) -> Any:
    return aimet.ChannelPruningParameters.AutoModeParams(aimet.GreedySelectionParameters(share), ignore)


def compressed(model: nn.Module, scheme: str, parameters: Any, **options: Any) -> tuple[Any, aimet.CompressionStats]:
    given = {"input_shape": (1, 1, 28, 28), "cost_metric": CostMetric.mac, "refinement": None} | options
    return aimet.ModelCompressor.compress_model(
        model, given.pop("eval_callback", None) or Callback(model), eval_iterations=3,
        compress_scheme=CompressionScheme[scheme], parameters=parameters, **given,
    )  # fmt: skip


def test_the_published_ranks() -> None:
    """ResNet-18's layers of 64 and 128 channels at 0.5 and 0.4 of their multiplications, in eights."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 128, 1), nn.ReLU(),
                          nn.Conv2d(128, 128, 3, padding=1))  # fmt: skip
    kind = aimet.SpatialSvdParameters
    parameters = kind(kind.Mode.manual, by_hand((model[0], 0.5), (model[4], 0.4)), multiplicity=8)
    images = torch.randn(16, 64, 3, 3)
    small, stats = compressed(
        model, "spatial_svd", parameters, input_shape=(1, 64, 3, 3), calibration=[images], eval_callback=lambda *_: 0.5
    )
    assert small[0][0].weight.shape == (48, 64, 3, 1)
    assert small[4][1].weight.shape == (128, 80, 1, 3)
    assert stats.compression_ratio_selection_stats is None
    assert (stats.baseline_model_accuracy, stats.compressed_model_accuracy) == ("0.500000", "0.500000")


def test_the_published_widths_and_cost() -> None:
    model = mnist()
    small, stats = compressed(model, "channel_pruning", pruning(by_hand((model[3], 0.5))))
    assert stats.result.dense_cost.macs == 13_883_904
    assert stats.result.cost.macs == 8_552_704
    assert stats.mac_compression_ratio == f"{8_552_704 / 13_883_904:.6f}"
    assert small[3].in_channels == small[0].out_channels == 16
    ratios = {layer.name: layer.compression_ratio for layer in stats.per_layer_stats}
    assert ratios == {"0": 0.5, "3": 0.5, "7": 1, "9": 1}
    wide = small_net(64)
    small, _ = compressed(wide, "channel_pruning", pruning(by_hand((wide[3], 0.3)), 8))
    assert small[3].in_channels == 24


def test_widths_that_are_no_powers_of_two() -> None:
    """D6: AIMET keeps 7 of 24 channels at 0.3 in eights."""
    model = small_net()
    small, _ = compressed(model, "channel_pruning", pruning(by_hand((model[5], 0.3)), 8))
    assert small[5].in_channels == 8


@pytest.mark.parametrize("scheme", ["channel_pruning", "spatial_svd"])
def test_the_target_is_met_and_hardly_undershot(scheme: str) -> None:
    """D1: AIMET delivers 0.447 for 0.5. D9: the cost in the search is a formula, and what is counted agrees."""
    model = small_net().train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    callback = Callback(model)
    kind = aimet.SpatialSvdParameters
    svd = scheme == "spatial_svd"
    parameters = kind(kind.Mode.auto, target(0.6)) if svd else pruning(target(0.6))
    small, stats = compressed(model, scheme, parameters, eval_callback=callback)
    assert 0.57 < float(stats.mac_compression_ratio) <= 0.6
    assert stats.result.plan.costs["macs"] == stats.result.cost.macs
    assert model.training
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert {3, None} == {iterations for iterations, _ in callback.calls}
    assert stats.compression_ratio_selection_stats is not None
    scores = stats.compression_ratio_selection_stats.eval_scores_dictionary
    assert any(scores.values())
    assert "MAC ratio        " + stats.mac_compression_ratio in str(stats)
    assert float(stats.compressed_model_accuracy) == pytest.approx(Callback(model)(small, None, False), abs=1e-4)


def test_a_target_out_of_reach_is_said() -> None:
    """D2: AIMET returns 0.407 for 0.05 and says nothing."""
    with pytest.raises(wb.Unreachable, match="out of reach"):
        compressed(small_net(), "channel_pruning", pruning(target(0.0001)))


def test_ignored_layers_keep_their_inputs() -> None:
    model = small_net()
    small, _ = compressed(model, "channel_pruning", pruning(target(0.7, [model[0], model[3]])))
    assert small[3].in_channels == 16
    assert small[3].out_channels < 24


class Residual(nn.Module):
    """Every convolution behind a shortcut: AIMET leaves them as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = (nn.Conv2d(n, 8, 3, padding=1) for n in (1, 8, 8))
        self.last = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = (x + self.one(x)).relu()
        return self.last((x + self.two(x)).relu().mean((2, 3)))


def test_layers_behind_a_shortcut_lose_channels() -> None:
    """D7: five of eight layers of such a network stay whole, and are evaluated all the same."""
    torch.manual_seed(0)
    model = Residual()
    small, stats = compressed(model, "channel_pruning", pruning(target(0.5)))
    assert small.stem.out_channels == small.one.in_channels == small.two.out_channels < 8
    assert float(stats.mac_compression_ratio) <= 0.5


def test_too_few_samples_do_no_harm() -> None:
    """D8: 145 unknowns a filter and some samples; a fit that does not help is not used."""
    model = small_net()
    few = aimet.ChannelPruningParameters(LOADER[:1], 10, False, aimet.ChannelPruningParameters.Mode.manual,
                                         by_hand((model[3], 0.9)))  # fmt: skip
    small, stats = compressed(model, "channel_pruning", few)
    fresh = torch.randn(64, 1, 28, 28)
    bare = stats.result.graph.winnow(dict(stats.result.plan.kept))
    with torch.no_grad():
        wanted = model(fresh)
        assert (small(fresh) - wanted).norm() <= 1.05 * (bare(fresh) - wanted).norm()


def test_a_trainer_gets_the_whole_model_once() -> None:
    class Trainer:
        def __init__(self) -> None:
            self.calls: list[tuple[bool, Any, bool]] = []

        def train_model(self, model: nn.Module, layer: Any, train_flag: bool = True) -> None:
            self.calls.append((model.training, layer, train_flag))
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.zero_()

    trainer, model = Trainer(), small_net().eval()
    small, stats = compressed(model, "channel_pruning", pruning(by_hand((model[3], 0.5))), trainer=trainer)
    assert trainer.calls == [(True, None, True)]
    assert not small.training
    assert float(stats.compressed_model_accuracy) == pytest.approx(Callback(model)(small, None, False), abs=1e-5)
    assert float(stats.compressed_model_accuracy) != pytest.approx(stats.result.score.after, abs=1e-5)


def test_what_does_not_fit_is_refused_in_a_sentence() -> None:
    model = small_net()
    manual = pruning(by_hand((model[3], 0.5)))
    with pytest.raises(ValueError, match="spatial_svd takes SpatialSvdParameters"):
        compressed(model, "spatial_svd", manual)
    with pytest.raises(ValueError, match="there is no server"):
        compressed(model, "channel_pruning", manual, visualization_url="http://localhost:5006")
    with pytest.raises(ValueError, match="is no module of this Sequential"):
        compressed(model, "channel_pruning", pruning(by_hand((nn.Conv2d(1, 1, 1), 0.5))))
    with pytest.raises(ValueError, match="must be 2 or more"):
        aimet.GreedySelectionParameters(0.5, num_comp_ratio_candidates=1)
    with pytest.raises(ValueError, match="is a pickle"):
        aimet.GreedySelectionParameters(0.5, saved_eval_scores_dict="scores.pkl")
    with pytest.raises(ValueError, match="target_comp_ratio=50 must be"):
        aimet.GreedySelectionParameters(50)
    with pytest.raises(ValueError, match="multiplicity=0"):
        pruning(target(0.5), 0)
    with pytest.raises(ValueError, match="the mode manual does not go with"):
        aimet.SpatialSvdParameters(aimet.SpatialSvdParameters.Mode.manual, target(0.5))


@pytest.mark.slow
def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(__file__).parents[1] / "examples" / "aimet_migration.py"
    stats = runpy.run_path(str(path))["main"](samples=500)
    assert 0.4 < float(stats.mac_compression_ratio) <= 0.5
    assert float(stats.baseline_model_accuracy) == pytest.approx(0.9461, abs=5e-4)
    assert float(stats.compressed_model_accuracy) > 0.92
    assert f"accuracy after   {stats.compressed_model_accuracy}" in capsys.readouterr().out
