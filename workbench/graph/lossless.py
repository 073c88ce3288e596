"""Activations that lose nothing, for comparisons of structure: behind a dead ReLU any two models look alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


def rising(x: Tensor) -> Tensor:
    """Positive, as ReLU's outputs are not below zero, and different for every x; falls off slowly to the left."""
    return torch.where(x > 0, 1 + x, 1 / (1 - x.clamp_max(0)))


def share(x: Tensor) -> Tensor:
    """Between 0 and 1, as a sigmoid."""
    return (1 + x / (1 + x.abs())) / 2


def between(x: Tensor, low: float = -1.0, high: float = 1.0) -> Tensor:
    """Between two limits, as ``hardtanh``."""
    return low + (high - low) * share(x)


def gated(x: Tensor, **_: Any) -> Tensor:
    """x times its share, as GELU and its like."""
    return x * share(x)


INSTEAD: dict[str, Callable[..., Tensor]] = {
    "relu": rising, "hardtanh": between, "hardsigmoid": share, "hardswish": gated, "silu": gated, "gelu": gated,
}  # fmt: skip


class Lossless(TorchDispatchMode):
    """While it is on, activations that map many values to one (or nearly) are replaced by others that do not."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[-1]
        instead = INSTEAD.get(name.removesuffix("_"))
        if instead is None or func._overloadname != "default":
            return func(*args, **(kwargs or {}))
        found = instead(*args, **(kwargs or {}))
        return args[0].copy_(found) if name.endswith("_") else found
