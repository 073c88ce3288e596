"""A part of a model that cannot be exported as a whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from workbench import Refused, trace, verify


class Detector(nn.Module):
    """A backbone, and steps that depend on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        self.spare = nn.Linear(2, 2)

    def forward(self, images: list[Tensor]) -> list[Any]:
        maps = self.backbone(torch.stack(images) / 2)
        return [one[one > one.mean()].tolist() for one in maps]


IMAGES = ([torch.randn(3, 9, 9), torch.randn(3, 9, 9)],)


def test_the_whole_is_refused_with_the_way_round() -> None:
    with pytest.raises(Refused, match=r"torch\.export in Detector: .*submodule=") as caught:
        trace(Detector(), IMAGES)
    assert "test_part.py:" in str(caught.value)
    assert "`return [one[one > one.mean()].tolist() for one in maps]`" in str(caught.value)  # the line that stopped it
    assert "\n" not in str(caught.value)


def test_a_part_sees_what_it_sees_in_a_real_forward() -> None:
    model = Detector().train()
    graph = trace(model, IMAGES, submodule="backbone")
    assert model.training
    (seen,) = graph.inputs.args
    torch.testing.assert_close(seen, torch.stack(IMAGES[0]) / 2)
    assert [(group.name, group.units) for group in graph.groups] == [("0", 8)]


def test_the_whole_comes_back_with_a_smaller_part() -> None:
    model = Detector().eval()
    small = trace(model, IMAGES, submodule="backbone").winnow({"0": [1, 2, 6]})
    assert isinstance(small, Detector)
    assert small.backbone[0].out_channels == 3
    assert model.backbone[0].out_channels == 8
    assert small.spare is not model.spare
    assert len(small(*IMAGES)) == 2
    assert verify(model, small, IMAGES).ok
    small.backbone[2].bias.data += 1
    small.backbone[2].register_forward_hook(lambda module, inputs, output: output.flip(1))
    assert not verify(model, small, IMAGES).ok


def test_bad_parts() -> None:
    with pytest.raises(ValueError, match="Detector has no submodule 'body'; its own are backbone, spare"):
        trace(Detector(), IMAGES, submodule="body")
    with pytest.raises(ValueError, match="the forward of Detector does not call 'spare' on these inputs"):
        trace(Detector(), IMAGES, submodule="spare")
