"""ResNets of several depths, each operation a module of its own (as some compressors ask), trained briefly and kept.

Those of He et al. (2015, section 4.2) for 28 x 28 images: ``resnet32m`` and so on; two passes over 20,000 images of
Fashion-MNIST take minutes, so the weights stay in ``reports/networks``.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import workbench as wb
from workbench.zoo.train import Recipe, augment, optimizer_for

DEPTHS = {f"resnet{depth}m": depth for depth in (20, 32, 44, 56)}
KEPT = Path(__file__).parent.parent / "reports" / "networks"
RECIPE = Recipe(epochs=2, rate=0.1, batch=128)
IMAGES = 20_000


class Add(nn.Module):
    """A sum of two tensors."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, before: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
        self.bn1, self.relu1 = nn.BatchNorm2d(width), nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != width:
            self.shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        self.add, self.relu2 = Add(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(self.add(out, self.shortcut(x)))


def build(depth: int) -> nn.Module:
    """Untrained."""
    layers: list[nn.Module] = [nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    before = 16
    for stage, width in enumerate((16, 32, 64)):
        for place in range((depth - 2) // 6):
            layers.append(Block(before, width, stride=2 if stage and not place else 1))
            before = width
    return nn.Sequential(*layers, nn.AvgPool2d(7), nn.Flatten(), nn.Linear(64, 10))


def load(name: str) -> nn.Module:
    """A trained one, in eval mode; trained now if it was not before."""
    model, kept = build(DEPTHS[name]), KEPT / f"{name}.safetensors"
    if not kept.exists():
        start = time.process_time()
        _train_(model)
        kept.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, kept)
        print(f"trained {name} in {time.process_time() - start:.0f} CPU seconds", file=sys.stderr, flush=True)
    model.load_state_dict(load_file(kept))
    return model.eval()


def _train_(model: nn.Module) -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    images, labels = (tensor[:IMAGES] for tensor in wb.data.fashion_mnist("train"))
    optimizer, steps = optimizer_for(model, RECIPE), IMAGES // RECIPE.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RECIPE.rate, total_steps=RECIPE.epochs * steps)
    model.train()
    for _ in range(RECIPE.epochs):
        order = torch.randperm(IMAGES, generator=generator)
        for drawn in order[: steps * RECIPE.batch].split(RECIPE.batch):
            loss = F.cross_entropy(model(augment(images[drawn], generator, RECIPE.erase)), labels[drawn])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
