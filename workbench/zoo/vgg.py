"""A small VGG: six 3x3 convolutions with BN in three stages, then two fully connected layers. 29.3 M MACs."""

from __future__ import annotations

from torch import Tensor, nn


class VGG(nn.Module):
    """``[N, 1, 28, 28]`` to ``[N, 10]`` logits."""

    def __init__(self, widths: tuple[int, ...] = (32, 32, 64, 64, 128, 128), hidden: int = 128, classes: int = 10):
        super().__init__()
        layers: list[nn.Module] = []
        for number, (before, width) in enumerate(zip((1, *widths), widths, strict=False)):
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            if number % 2:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Linear(widths[-1] * 9, hidden), nn.ReLU(), nn.Linear(hidden, classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).flatten(1))
