"""The tensors that a program reads, in a model of its class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from workbench.graph.trace import ChannelGraph


def own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by name, tied ones under each of their names."""
    return dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))


def tensors_of(model: nn.Module, graph: ChannelGraph) -> dict[str, Tensor]:
    """The tensors of a program's names in a model of that class; constants are the program's."""
    own = own_tensors(model)
    return {name: own.get(name, tensor) for name, tensor in graph.program.tensors.items()}


def set_tensors_(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Write values into a model's parameters and buffers."""
    own = own_tensors(model)
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
