"""What an optimiser remembers of weights that come back: nothing."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def forget_(optimiser: torch.optim.Optimizer, parameter: nn.Parameter, where: Tensor | None = None) -> None:
    """Set the optimiser's tensors of a parameter's shape to zero, everywhere or at some places."""
    for value in optimiser.state.get(parameter, {}).values():
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            if where is None:
                value.zero_()
            else:
                value.masked_fill_(where.to(value.device), 0)
