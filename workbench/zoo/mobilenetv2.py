"""A MobileNetV2 (Sandler et al. 2018) for 28 x 28 images: inverted residuals, depthwise convolutions, ReLU6."""

from __future__ import annotations

from torch import Tensor, nn

# expansion, width, blocks, stride of the first
STAGES = ((1, 16, 1, 1), (4, 24, 2, 2), (4, 40, 3, 2), (4, 64, 2, 1))


def conv_bn(before: int, width: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution without bias and its BN."""
    convolution = nn.Conv2d(before, width, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(width)]


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter by depthwise 3x3, project by 1x1; added to the input where the shape is the same."""

    def __init__(self, before: int, width: int, stride: int, expansion: int):
        super().__init__()
        hidden = before * expansion
        expand = [*conv_bn(before, hidden, 1), nn.ReLU6()] if expansion > 1 else []
        filtered = [*conv_bn(hidden, hidden, 3, stride, groups=hidden), nn.ReLU6()]
        self.layers = nn.Sequential(*expand, *filtered, *conv_bn(hidden, width, 1))
        self.residual = stride == 1 and before == width

    def forward(self, x: Tensor) -> Tensor:
        out = self.layers(x)
        return x + out if self.residual else out


class MobileNetV2(nn.Module):
    """``[N, 1, 28, 28]`` to ``[N, 10]`` logits."""

    def __init__(self, stem: int = 16, last: int = 256, classes: int = 10):
        super().__init__()
        layers = [*conv_bn(1, stem, 3), nn.ReLU6()]
        before = stem
        for expansion, width, blocks, stride in STAGES:
            for place in range(blocks):
                layers.append(InvertedResidual(before, width, 1 if place else stride, expansion))
                before = width
        layers += [*conv_bn(before, last, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(last, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).flatten(1))
