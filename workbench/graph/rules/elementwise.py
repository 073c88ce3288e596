"""Ops that combine elements at the same place: activations, sums, products."""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.graph.call import Call, Operand
from workbench.graph.labels import Labels, flat, squash, varied
from workbench.graph.rules import rule

UNARY = """abs celu clamp clamp_max clamp_min clone contiguous cos detach dropout elu erf exp feature_dropout gelu
hardsigmoid hardswish hardtanh leaky_relu log log_sigmoid logical_not mish native_dropout neg relu relu6 rsqrt selu
sigmoid silu sin softplus sqrt square tanh to _to_copy alias lift_fresh_copy bitwise_not reciprocal""".split()
BINARY = """add sub mul div maximum minimum pow where eq ne lt le gt ge logical_and logical_or bitwise_and bitwise_or
rsub atan2 fmod remainder addcmul lerp""".split()


@rule(*UNARY)
def unary(call: Call) -> Labels:
    """The labels of the one tensor, unchanged."""
    return call.tensors()[0].labels


@rule("_assert_tensor_metadata", "sym_size")
def looked_at(call: Call) -> Labels:
    """Asks for a type or a size; no data comes out."""
    return ()


@rule(*BINARY)
def binary(call: Call) -> Labels:
    """Indices at the same place leave together; a broadcast dimension of size 1 couples nothing."""
    return combine(call, call.tensors(), call.shape)


@rule("_prelu_kernel", "prelu")
def prelu(call: Call) -> Labels:
    """A slope per channel, which is dimension 1."""
    inputs, weight = call.tensors()
    if weight.shape.numel() == 1:
        return inputs.labels
    shape = torch.Size([1, -1, *[1] * (len(inputs.shape) - 2)])
    slopes = Operand(
        torch.Size([1, weight.shape.numel(), *shape[2:]]), tuple(label.reshape(shape) for label in weight.labels)
    )
    return combine(call, [inputs, slopes], call.shape)


def combine(call: Call, operands: list[Operand], shape: torch.Size) -> Labels:
    """Unite the labels of all operands that vary along the same dimensions of the broadcast shape."""
    united: dict[tuple[int, ...], Tensor] = {}
    for operand in operands:
        for label in operand.labels:
            wide = label.expand(shape)
            place = varied(wide)
            if place in united:
                call.atoms.unite(flat(united[place]), flat(wide))
            united[place] = _filled(united[place], wide) if place in united else wide
    for place, label in united.items():
        if any(_fixes(operand, place, shape) for operand in operands):
            call.freeze(
                label, "it meets a tensor whose size there is fixed", "keep the layer that makes it at full width"
            )
    return tuple(united.values())


def _filled(first: Tensor, second: Tensor) -> Tensor:
    """The first label, with the second where it names nothing (padding); both vary along the same dimensions."""
    if bool((flat(first) >= 0).all()):
        return first
    filled = squash(torch.where(first < 0, second, first))
    return first if filled is None else filled


def _fixes(operand: Operand, place: tuple[int, ...], shape: torch.Size) -> bool:
    """Whether an operand has every index along these dimensions, yet no label that lets them leave."""
    sizes = [1] * (len(shape) - len(operand.shape)) + list(operand.shape)
    if any(sizes[dim] == 1 for dim in place):
        return False
    return all(varied(label.expand(shape)) != place for label in operand.labels)
