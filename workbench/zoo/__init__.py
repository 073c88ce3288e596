"""Four small networks trained on Fashion-MNIST, shipped with their weights. ``train.py`` is how they were made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

NAMES = ("vgg", "resnet20", "mobilenetv2", "vit")
WEIGHTS = Path(__file__).parent / "weights"


def build(name: str) -> nn.Module:
    """The network called ``name`` with random weights, in training mode.

    Raises
    ------
    ValueError
        There is no such network.
    """
    if name not in NAMES:
        raise ValueError(f"the zoo has no network {name!r}; choose one of {', '.join(NAMES)}")
    from workbench.zoo.mobilenetv2 import MobileNetV2
    from workbench.zoo.resnet20 import ResNet20
    from workbench.zoo.vgg import VGG
    from workbench.zoo.vit import ViT

    return {"vgg": VGG, "resnet20": ResNet20, "mobilenetv2": MobileNetV2, "vit": ViT}[name]()


def load(name: str) -> nn.Module:
    """The network called ``name``, trained, in eval mode. It maps float32 ``[N, 1, 28, 28]`` to logits ``[N, 10]``.

    Raises
    ------
    ValueError
        There is no such network.

    Examples
    --------
    >>> load("resnet20").fc
    Linear(in_features=64, out_features=10, bias=True)
    """
    from safetensors.torch import load_file

    model = build(name)
    model.load_state_dict(load_file(WEIGHTS / f"{name}.safetensors"))
    return model.eval()
