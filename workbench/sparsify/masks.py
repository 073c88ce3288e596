"""Masks on parameters, and why they are no parametrization.

Masked weights are zeros in the parameter itself, written again after every step of the optimiser.
``torch.nn.utils.parametrize`` would compute the weight from an original and a mask in every forward. Then the names in
the state dict change, and the order of the parameters when it is removed; tied weights must be parametrized in each
place; the exported graph holds original, mask and product; above all, the gradient of what is masked is zero, where
movement and RigL ask what it would be. With zeros the model stays what it was: class, names and order, ``deepcopy``,
``state_dict``, ``torch.export``, DDP and optimisers need to know nothing, and to make it permanent is to stop. The
price: between the optimiser's step and the sparsifier's, masked weights are not zero.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from workbench.sparsify.sites import Site
from workbench.sparsify.units import Masks


@torch.no_grad()
def mask_(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """Set what is masked to zero, in place. A NaN, an infinity and a denormal are zero afterwards, too.

    Raises
    ------
    ValueError
        A mask fits no parameter.
    """
    for name, parameter in fitting(model, masks).items():
        parameter.masked_fill_(~masks[name].to(parameter.device), 0)
    return model


def fitting(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    """The parameters that some masks belong to.

    Raises
    ------
    ValueError
        There is no such parameter, or it has another shape; a mask holds no truth values.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, mask in masks.items():
        if name not in parameters:
            raise ValueError(f"there is a mask for {name}, and {type(model).__name__} has no parameter of that name")
        if mask.shape != parameters[name].shape or mask.dtype != torch.bool:
            raise ValueError(
                f"the mask of {name} is {mask.dtype} {tuple(mask.shape)}; it must be torch.bool "
                f"{tuple(parameters[name].shape)}, True where a weight stays"
            )
    return {name: parameters[name] for name in masks}


def zeros_of(model: nn.Module, sites: tuple[Site, ...]) -> Masks:
    """The masks that keep just what is not zero now."""
    return {site.name: model.get_parameter(site.name).detach() != 0 for site in sites}


def sparsity_of(masks: Mapping[str, Tensor]) -> float:
    """The share of all elements that is masked."""
    elements = sum(mask.numel() for mask in masks.values())
    return 1 - sum(int(mask.sum()) for mask in masks.values()) / elements if elements else 0.0


@torch.no_grad()
def check(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """See that nothing masked has come back.

    Raises
    ------
    RuntimeError
        A masked weight is not zero; the message names the first.
    """
    for name, parameter in fitting(model, masks).items():
        back = int(parameter[~masks[name].to(parameter.device)].count_nonzero())
        if back:
            raise RuntimeError(
                f"{back} masked weights of {name} are not zero; something wrote into it after the sparsifier's step: "
                "call step() after it, or leave this parameter alone"
            )
