"""Factors as modules: an ``nn.Sequential`` of ordinary layers in the place of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from workbench.factorize.shape import Method, Shape, Stage

Factorable = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Form:
    """A method and a rank."""

    method: Method
    rank: int

    def checked(self, shape: Shape) -> Form:
        """Itself, where a layer of that shape can have it.

        Raises
        ------
        ValueError
            The method does not fit the layer, or the rank is not between 1 and the full one.
        """
        why = self.method.unfit(shape)
        if why:
            raise ValueError(f"{self.method.name} does not fit this layer: {why}; leave the layer out")
        most = self.method.full(shape)
        if not 1 <= self.rank <= most:
            raise ValueError(f"{self.method.name} cannot have the rank {self.rank} here; give 1 to {most}")
        return self


def factorized(
    module: Factorable, form: Form, metric: Tensor | None = None, factors: Sequence[Tensor] | None = None
) -> nn.Sequential:
    """A layer as a sequence of smaller ones; the last has the layer's bias.

    ``metric`` is of the layer's inputs (``metric_of``), None for the plain decomposition; ``factors`` are those to use,
    where they are known.

    Examples
    --------
    >>> from workbench.factorize import SpatialSVD
    >>> layer = nn.Conv2d(8, 16, 3, stride=2, padding=1)
    >>> split = factorized(layer, Form(SpatialSVD(), 24))  # the full rank
    >>> x = torch.randn(2, 8, 9, 9)
    >>> torch.allclose(split(x), layer(x), atol=1e-5)
    True
    """
    groups = getattr(module, "groups", 1)
    shape = Shape.of(module.weight, groups)
    stages = form.checked(shape).method.stages(shape, form.rank)
    if factors is None:
        factors = form.method.factors(grouped(module.weight, groups), form.rank, metric)
    bias = [*[None] * (len(stages) - 1), module.bias]
    made = [_layer(module, shape, *each) for each in zip(stages, factors, bias, strict=True)]
    return nn.Sequential(*made).train(module.training)


def grouped(weight: Tensor, groups: int) -> Tensor:
    """A weight as the methods take it, float64 ``[groups, outputs, inputs, kernel...]``."""
    return weight.detach().cpu().double().unflatten(0, (groups, -1))


def compose(factors: Sequence[Tensor]) -> Tensor:
    """The weight ``[groups, outputs, inputs, kernel...]`` that the stages' weights are together."""
    whole, *rest = factors
    for factor in rest:
        kernel = [max(sizes) for sizes in zip(whole.shape[3:], factor.shape[3:], strict=True)]
        product = torch.einsum("gorj,grci->gocij", _flat(factor), _flat(whole))
        whole = product.reshape(*product.shape[:3], *kernel)
    return whole


def weight_of(split: nn.Sequential) -> Tensor:
    """The weight of the one layer that a sequence of factors stands for, in that layer's own shape."""
    groups = getattr(split[0], "groups", 1)
    weights: list[Tensor] = [layer.get_parameter("weight") for layer in split]
    return compose([weight.unflatten(0, (groups, -1)) for weight in weights]).flatten(0, 1)


def _flat(weight: Tensor) -> Tensor:
    return weight.reshape(*weight.shape[:3], -1)


def _layer(module: Factorable, shape: Shape, stage: Stage, weight: Tensor, bias: Tensor | None) -> nn.Module:
    groups, outputs, inputs = weight.shape[:3]
    placed: dict[str, Any] = {"bias": bias is not None, "device": module.weight.device, "dtype": module.weight.dtype}
    if isinstance(module, nn.Linear):
        made: Factorable = nn.Linear(inputs, outputs, **placed)
    else:
        kind: Any = type(module)
        made = kind(
            groups * inputs, groups * outputs, stage.kernel(shape), **options_of(module, stage), groups=groups,
            padding_mode=module.padding_mode, **placed,
        )  # fmt: skip
    with torch.no_grad():
        made.weight.copy_(weight.flatten(0, 1)).requires_grad_(module.weight.requires_grad)
        if bias is not None and made.bias is not None:
            made.bias.copy_(bias).requires_grad_(bias.requires_grad)
    return made


def options_of(module: _ConvNd, stage: Stage) -> dict[str, Any]:
    """Stride, padding and dilation of a stage: the layer's own in the dimensions whose kernel it has."""
    return {
        "stride": _taken(module.stride, stage, 1), "padding": _padding(module, stage),
        "dilation": _taken(module.dilation, stage, 1),
    }  # fmt: skip


def _taken(sizes: Sequence[int], stage: Stage, else_: int) -> tuple[int, ...]:
    return tuple(size if has else else_ for size, has in zip(sizes, stage.dims, strict=True))


def _padding(module: _ConvNd, stage: Stage) -> Any:
    """Words hold for every kernel: one of a single place needs no padding to stay the same."""
    return module.padding if isinstance(module.padding, str) else _taken(module.padding, stage, 0)
