"""What jobs of the tests name: small networks, data and scores, good ones and such as fail in every way."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import workbench as wb

SCRATCH = "WORKBENCH_TEST_SCRATCH"  # a folder through which a test and its processes speak


class Net(nn.Module):
    """Two convolutions and a head, 10 by 10 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.ReLU())
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).mean((2, 3)))


class Branching(nn.Module):
    """Its forward hangs on the values of its input, which no export follows."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum().item() > 0 else -x


def build() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


class Bessel(Net):
    """Its last operation is one that ONNX has not."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j1(super().forward(x))


def untranslatable() -> nn.Module:
    torch.manual_seed(0)
    return Bessel().eval()


def broken() -> nn.Module:
    return Branching()


def images(count: int = 96, seed: int = 1) -> Tensor:
    return torch.randn(count, 1, 10, 10, generator=torch.Generator().manual_seed(seed))


def one() -> Tensor:
    return images(1)


def some() -> list[Tensor]:
    return list(images().split(32))


def nearness(output: Tensor, batch: Any) -> Tensor:
    return -(output - batch[1]).square().sum(1)


def score() -> wb.Evaluation:
    x = images(600, 2)
    with torch.no_grad():
        y = build()(x)
    return wb.Evaluation(list(zip(x.split(100), y.split(100), strict=True)), nearness, name="nearness")


# --- such as fail


def raises(model: nn.Module) -> float:
    raise RuntimeError("the labels <b>are</b> gone")


def nan(model: nn.Module) -> float:
    return float("nan")


def hangs(model: nn.Module) -> float:
    while True:
        time.sleep(0.01)


def hungry(model: nn.Module) -> float:
    return float(np.ones(1 << 32).sum())


def vanished() -> list[Tensor]:
    return [torch.from_numpy(np.load(Path(os.environ[SCRATCH]) / "images.npy", allow_pickle=False))]


def suicidal(model: nn.Module) -> float:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0.0


def killed_once(model: nn.Module) -> float:
    mark = Path(os.environ[SCRATCH]) / "killed"
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(model)


@torch.no_grad()
def plain(model: nn.Module) -> float:
    return float(-(model(images(50, 3)) - build()(images(50, 3))).square().mean())


def later_hangs(model: nn.Module) -> float:
    """A test that hangs only on a model that is much smaller."""
    return hangs(model) if sum(p.numel() for p in model.parameters()) < 500 else plain(model)
