"""A script written against aimet_torch's names: only the imports are others. Prunes the shipped VGG to half its MACs.

    python examples/aimet_migration.py
"""

from __future__ import annotations

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

# before: from aimet_torch.compress import ModelCompressor
#         from aimet_torch.common.defs import CompressionScheme, CostMetric, GreedySelectionParameters
#         from aimet_torch.defs import ChannelPruningParameters
import workbench as wb
from workbench.aimet import (
    ChannelPruningParameters,
    CompressionScheme,
    CompressionStats,
    CostMetric,
    GreedySelectionParameters,
    ModelCompressor,
)

BATCH = 128


def evaluate(model: nn.Module, iterations: int | None, use_cuda: bool) -> float:
    """Top-1 on as many batches as there are iterations; the search's and the final images are not the same."""
    images, labels = wb.data.fashion_mnist("test" if iterations is None else "search")
    device = "cuda" if use_cuda else "cpu"
    hits = total = 0
    with torch.no_grad():
        for image, label in list(zip(images.split(BATCH), labels.split(BATCH), strict=True))[:iterations]:
            hits += int((model(image.to(device)).argmax(1).cpu() == label).sum())
            total += len(label)
    return hits / total


def main(samples: int = 5000, target: float = 0.5) -> CompressionStats:
    """Compress with ``samples`` reconstruction samples; the statistics."""
    model = wb.zoo.load("vgg")
    images, labels = wb.data.fashion_mnist("calibration")
    loader = DataLoader(TensorDataset(images, labels), batch_size=BATCH)
    greedy = GreedySelectionParameters(target_comp_ratio=target, num_comp_ratio_candidates=10)
    auto = ChannelPruningParameters.AutoModeParams(greedy, modules_to_ignore=[model.features[0]])
    parameters = ChannelPruningParameters(
        data_loader=loader, num_reconstruction_samples=samples, allow_custom_downsample_ops=False,
        mode=ChannelPruningParameters.Mode.auto, params=auto, multiplicity=8,
    )  # fmt: skip
    _, stats = ModelCompressor.compress_model(
        model, eval_callback=evaluate, eval_iterations=4, input_shape=(1, 1, 28, 28),
        compress_scheme=CompressionScheme.channel_pruning, cost_metric=CostMetric.mac, parameters=parameters,
    )  # fmt: skip
    print(stats)  # noqa: T201  # what it is for
    return stats


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
