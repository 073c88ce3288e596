"""What cannot shrink says so: which op of which layer, why, and what to do."""

from __future__ import annotations

import torch
from torch import nn

from tests.graph.constructs import line
from workbench import trace


def test_frozen_says_what_and_why() -> None:
    model = line(lambda m, x: x.sort(-1)[0])()
    frozen = {item.tensor: item for item in trace(model, torch.zeros(2, 5)).frozen}
    assert repr(frozen["hidden.weight"]) == "Frozen(hidden.weight[0]: 8 channels, sort: it needs all of these indices)"
    assert frozen["hidden.weight"].to_dict()["remedy"] == "keep the layers that make them at full width"
    assert frozen["head.weight"].reason.why == "the model returns it"


def test_what_is_written_at_every_other_place_keeps_its_size() -> None:
    def interleaved(_model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        out = torch.zeros_like(x)
        out[:, ::2], out[:, 1::2] = x[:, :4], x[:, 4:]
        return out

    graph = trace(line(interleaved)(), torch.zeros(2, 5))
    assert not graph.exact
    why = {item.tensor: item.reason.why for item in graph.frozen}
    assert why["hidden.weight"] == "it is written to at every 2th place"


def test_layers_for_training_alone_are_told_of() -> None:
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.aux, self.head = nn.Linear(5, 8), nn.Linear(8, 3), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> object:
            x = self.body(x).relu()
            return (self.head(x), self.aux(x)) if self.training else self.head(x)

    frozen = trace(Auxiliary(), torch.zeros(2, 5)).frozen
    (told,) = (item.to_dict() for item in frozen if item.tensor == "aux.weight")
    assert told["reason"].startswith("forward in aux: it is not run in eval mode; in training it may read channels")
    tied = nn.Sequential(layer := nn.Linear(5, 5), nn.ReLU(), layer)
    assert not any("eval mode" in item.reason.why for item in trace(tied, torch.zeros(2, 5)).frozen)


def test_a_norm_over_channels_is_named() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 3))
    (group,) = trace(model, torch.zeros(2, 5)).groups
    assert group.approximate == ("layer_norm in 1",)
