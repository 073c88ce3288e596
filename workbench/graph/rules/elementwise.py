"""Ops that combine elements at the same place: activations, sums, products."""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.graph.atoms import FIXED
from workbench.graph.call import Call, Operand
from workbench.graph.labels import NOTHING, Labels, core, squash, squashed, varied
from workbench.graph.rules import rule

UNARY = """abs chance acos asin atan bernoulli ceil celu clamp clamp_max clamp_min clone contiguous cos cosh detach
dropout elu erf erfc exp expm1 feature_dropout fill floor frac gelu hardshrink hardsigmoid hardswish hardtanh isinf
isnan leaky_relu log log10 log1p log2 log_sigmoid log_sigmoid_forward logical_not mish nan_to_num native_dropout neg
reciprocal relu relu6 round rsqrt selu sigmoid sign silu sin sinh softplus softshrink sqrt square tan tanh threshold
to trunc _to_copy alias lift_fresh lift_fresh_copy bitwise_not _assert_tensor_metadata logit digamma lgamma
sgn positive absolute rrelu hardswish_ _conj""".split()
BINARY = """add sub mul div maximum minimum pow where eq ne lt le gt ge logical_and logical_or logical_xor
bitwise_and bitwise_or bitwise_xor rsub atan2 fmod remainder floor_divide addcmul addcdiv lerp masked_fill
true_divide hypot fmax fmin xlogy copysign copy clamp_tensor __and__ __or__""".split()


@rule(*UNARY)
def unary(call: Call) -> object:
    """The labels of the one tensor, unchanged. A number that is added or a bound that is a tensor makes it binary."""
    labels = call.tensors()[0].labels if len(call.tensors()) == 1 else combine(call, call.tensors(), call.shape)
    return [labels] * len(call.shapes) if isinstance(call.shapes, list) else labels


@rule("type_as")
def type_as(call: Call) -> Labels:
    """Of the other tensor nothing but the dtype counts."""
    return call.tensors()[0].labels


@rule(*BINARY)
def binary(call: Call) -> Labels:
    """Indices at the same place leave together; a broadcast dimension of size 1 couples nothing."""
    return combine(call, call.tensors(), call.shape)


@rule("_prelu_kernel", "prelu")
def prelu(call: Call) -> Labels:
    """A slope per channel, which is dimension 1."""
    inputs, weight = call.tensors()
    if weight.shape.numel() == 1 or len(weight.shape) == len(inputs.shape):
        return combine(call, [inputs, weight], call.shape) if weight.shape.numel() > 1 else inputs.labels
    thin = torch.Size([1, weight.shape.numel(), *[1] * (len(inputs.shape) - 2)])
    return combine(call, [inputs, Operand(thin, tuple(label.reshape(thin) for label in weight.labels))], call.shape)


@rule("glu")
def glu(call: Call) -> Labels:
    """The first half of a dimension times the gate in the second."""
    (inputs,) = call.tensors()
    dim = call["dim"] % len(inputs.shape)
    parts = [_squashed(label.chunk(2, dim)) for label in inputs.labels]
    halves = [Operand(call.shape, tuple(half)) for half in zip(*parts, strict=True)]
    return combine(call, halves, call.shape) if halves else ()


def _squashed(labels: tuple[Tensor, ...]) -> list[Tensor]:
    return [squash(label) if squash(label) is not None else label for label in labels]  # type: ignore[misc]


def combine(call: Call, operands: list[Operand], shape: torch.Size) -> Labels:
    """Unite the labels of all operands that vary along the same dimensions of the broadcast shape."""
    united: dict[tuple[int, ...], Tensor] = {}
    for operand in operands:
        for label in operand.labels:
            wide = label.expand(shape)
            place = varied(wide)
            if place in united:
                call.atoms.unite(core(united[place]), core(wide))
                wide = _both(united[place], wide)
            united[place] = wide
    for place, label in united.items():
        if len(place) == 1 and any(_fixes(operand, place[0], shape) for operand in operands):
            call.freeze(label, *FIXED)
    return squashed(tuple(united.values()))


def _both(first: Tensor, second: Tensor) -> Tensor:
    """The first of two labels that vary along the same dimensions, where both name an index."""
    holes = (core(first) >= 0) & (core(second) < 0)
    return torch.where(holes, NOTHING, core(first)).expand(first.shape) if holes.any() else first


def _fixes(operand: Operand, dim: int, shape: torch.Size) -> bool:
    """Whether an operand has every index along a dimension, yet no label that lets them leave."""
    sizes = [1] * (len(shape) - len(operand.shape)) + list(operand.shape)
    return sizes[dim] > 1 and not any(dim in varied(label.expand(shape)) for label in operand.labels)
