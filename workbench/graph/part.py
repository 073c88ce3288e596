"""A part of a model, with the inputs that it sees in a real forward."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.utils.weight_norm import WeightNorm

from workbench.graph.inputs import Inputs
from workbench.graph.modes import evaluating


def check_model(model: Any) -> None:
    """Refuse what is no ``nn.Module`` (a class, weights without a network, a function), or cannot be copied."""
    if isinstance(model, nn.Module):
        for name, module in model.named_modules():
            if any(isinstance(hook, WeightNorm) for hook in module._forward_pre_hooks.values()):
                raise ValueError(
                    f"{name or 'the model'} has torch.nn.utils.weight_norm, with which no model can be copied; use "
                    "torch.nn.utils.parametrizations.weight_norm, or remove_weight_norm first"
                )
        return
    what = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
    raise TypeError(f"the model is {what}; give an nn.Module, with its trained weights loaded")


def part_of(model: nn.Module, path: str) -> nn.Module:
    """The submodule of that name; the model itself for an empty one.

    Raises
    ------
    ValueError
        There is none.
    """
    try:
        return model.get_submodule(path)
    except AttributeError:
        names = ", ".join(name for name, _ in model.named_children())
        raise ValueError(
            f"{type(model).__name__} has no submodule {path!r}; its own are {names}, and theirs follow a dot"
        ) from None


def seen_inputs(model: nn.Module, path: str, inputs: Inputs) -> Inputs:
    """The arguments of the first call of a part while the whole model runs.

    Raises
    ------
    ValueError
        The forward never calls it.
    """
    if not path:
        return inputs
    calls: list[Inputs] = []

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append(Inputs(args, kwargs).map(torch.Tensor.clone))

    handle = part_of(model, path).register_forward_pre_hook(note, with_kwargs=True)
    try:
        with evaluating(model), torch.no_grad():
            inputs(model)
    finally:
        handle.remove()
    if not calls:
        raise ValueError(
            f"the forward of {type(model).__name__} does not call {path!r} on these inputs; name another part"
        )
    return calls[0]


def with_part(model: nn.Module, path: str, part: nn.Module) -> nn.Module:
    """A copy of a model with another part."""
    return copy.deepcopy(model, {id(part_of(model, path)): part})
