"""The shipped networks: they load in eval mode, cost what they say, and classify."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from workbench import data, trace, verify, zoo
from workbench.cost.count import count

# name -> MACs of one image, from the layers' formulas
MACS = {
    "vgg": 784 * 9 * (32 + 32 * 32)
    + 196 * 9 * (32 * 64 + 64 * 64)
    + 49 * 9 * (64 * 128 + 128 * 128)
    + 1152 * 128
    + 1280,
    "resnet20": 784 * 9 * (16 + 6 * 256)
    + 196 * (9 * (16 * 32 + 5 * 1024) + 512)
    + 49 * (9 * (2048 + 5 * 4096) + 2048)
    + 640,
}
ACCURACY = {"vgg": 0.93, "resnet20": 0.93, "mobilenetv2": 0.925, "vit": 0.90}
IMAGES = torch.zeros(1, 1, 28, 28)


@pytest.mark.parametrize("name", zoo.NAMES)
def test_networks_map_images_to_logits(name: str) -> None:
    model = zoo.build(name)
    assert model.training
    with torch.no_grad():
        assert model.eval()(torch.rand(3, 1, 28, 28)).shape == (3, 10)


@pytest.mark.parametrize(("name", "macs"), MACS.items())
def test_macs_are_those_of_the_formulas(name: str, macs: int) -> None:
    assert count(zoo.build(name), IMAGES).macs == macs


@pytest.mark.parametrize("name", zoo.NAMES)
def test_half_of_every_group_can_leave(name: str) -> None:
    """Random weights, norms off their initial values: the removal is exact whatever was trained."""
    torch.manual_seed(0)
    model = zoo.build(name)
    for tensor in [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]:
        if tensor.ndim == 1:
            nn.init.uniform_(tensor, 0.5, 1.5)
    x = torch.rand(2, 1, 28, 28)
    graph = trace(model, x)
    assert graph.groups
    small = graph.winnow({group.name: range(0, group.units, 2) for group in graph.groups})
    assert verify(model, small, x).ok
    assert count(small, x).macs < 0.8 * count(model, x).macs


@pytest.mark.parametrize("name", zoo.NAMES)
def test_weights_are_loaded_in_eval_mode_and_fresh(name: str) -> None:
    model = zoo.load(name)
    assert not any(module.training for module in model.modules())
    other = zoo.load(name)
    with torch.no_grad():
        next(model.parameters()).zero_()
    assert next(other.parameters()).any()


@pytest.mark.parametrize("name", zoo.NAMES)
def test_they_classify(name: str) -> None:
    """On 1,000 test images, so that it is quick: within two standard errors of what is promised on all 10,000."""
    images, labels = (tensor[:1000] for tensor in data.fashion_mnist("test"))
    with torch.no_grad():
        right = zoo.load(name)(images).argmax(1).eq(labels).double().mean().item()
    promised = ACCURACY[name]
    assert right >= promised - 2 * (promised * (1 - promised) / 1000) ** 0.5


@pytest.mark.parametrize("name", ["alexnet", "", "VGG"])
def test_an_unknown_network(name: str) -> None:
    with pytest.raises(ValueError, match=r"the zoo has no network .*; choose one of vgg, resnet20, mobilenetv2, vit"):
        zoo.load(name)
