"""Attributes of modules that repeat the sizes of their tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


def resize(module: nn.Module) -> None:
    """Make a module's attributes tell the sizes of its tensors; its forward may read them."""
    for kind, correct in SIZES:
        if isinstance(module, kind):
            correct(module)


def _convolution(module: Any) -> None:
    if module.transposed:
        _transposed(module)
        return
    out, per_group = module.weight.shape[:2]
    if module.groups > 1 and module.groups in (module.in_channels, module.out_channels):  # whole blocks left
        module.groups = out // (module.out_channels // module.groups)
    module.out_channels, module.in_channels = out, per_group * module.groups


def _transposed(module: Any) -> None:
    into, per_group = module.weight.shape[:2]
    if module.groups > 1 and module.groups in (module.in_channels, module.out_channels):
        module.groups = into // (module.in_channels // module.groups)
    module.out_channels, module.in_channels = per_group * module.groups, into


def _linear(module: Any) -> None:
    module.out_features, module.in_features = module.weight.shape


def _batch_norm(module: Any) -> None:
    module.num_features = len(module.running_mean if module.weight is None else module.weight)


def _prelu(module: Any) -> None:
    module.num_parameters = len(module.weight)


def _layer_norm(module: Any) -> None:
    if module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)


def _group_norm(module: Any) -> None:
    if module.weight is not None and module.num_groups > 1:  # whole groups left
        module.num_groups = module.num_groups * len(module.weight) // module.num_channels
    if module.weight is not None:
        module.num_channels = len(module.weight)


def _embedding(module: Any) -> None:
    module.num_embeddings, module.embedding_dim = module.weight.shape


def _recurrent(module: Any) -> None:
    module.input_size, module.hidden_size = module.weight_ih_l0.shape[1], module.weight_hh_l0.shape[1]


SIZES: tuple[tuple[type, Callable[[Any], None]], ...] = (
    (nn.modules.conv._ConvNd, _convolution),
    (nn.Linear, _linear),
    (nn.modules.batchnorm._NormBase, _batch_norm),
    (nn.LayerNorm, _layer_norm),
    (nn.RMSNorm, _layer_norm),
    (nn.GroupNorm, _group_norm),
    (nn.Embedding, _embedding),
    (nn.RNNBase, _recurrent),
    (nn.PReLU, _prelu),
)
