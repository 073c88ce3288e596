"""Options of the whole test run, and a zoo small enough to compress in a second."""

from __future__ import annotations

import pytest
import torch

from workbench import data, zoo
from workbench.zoo.vgg import VGG


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--overwrite", action="store_true", help="write the golden files anew instead of comparing")


@pytest.fixture
def small_zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every network of the zoo is a narrow VGG with random weights, every split of the data its first 64 images."""
    whole = data.fashion_mnist
    monkeypatch.setattr(data, "fashion_mnist", lambda split: tuple(tensor[:64] for tensor in whole(split)))
    build = zoo.build

    def narrow(name: str) -> torch.nn.Module:
        build(name)  # refuses an unknown name
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return VGG((4, 4, 8, 8, 8, 8), hidden=8).eval()

    monkeypatch.setattr(zoo, "build", narrow)
    monkeypatch.setattr(zoo, "load", narrow)
