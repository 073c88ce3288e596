"""Train and eval modes, which every module has for itself."""

from __future__ import annotations

from torch import nn


class evaluating:  # noqa: N801  # reads as a word: with evaluating(model)
    """Eval mode for a while; every submodule gets its own mode back."""

    def __init__(self, model: nn.Module):
        self.modes = {module: module.training for module in model.modules()}
        self.model = model

    def __enter__(self) -> nn.Module:
        return self.model.eval()

    def __exit__(self, *_: object) -> None:
        for module, training in self.modes.items():
            module.training = training
