"""Ops that sum over a dimension of their input against a weight: convolutions and linear layers."""

from __future__ import annotations

from torch import Tensor

from workbench.graph.call import Call, Operand
from workbench.graph.labels import Labels, along, flat, resized, varied
from workbench.graph.rules import rule

KEEP = "keep the layers that make them at full width"


@rule("conv1d", "conv2d", "conv3d")
def convolution(call: Call) -> Labels:
    """Weight ``[out, in / groups, k...]``; input and output channels are dimension 1."""
    weight_out, weight_in = _axis(call["weight"], 0), _axis(call["weight"], 1)
    inputs = _channels(call, call["input"], 1)
    groups = call["groups"]
    if weight_in is not None:
        call.atoms.consume(weight_in)
        _read(call, inputs, weight_in.repeat(groups))
    if weight_out is None:
        return ()
    if groups > 1:
        _couple_groups(call, inputs if weight_in is None else None, weight_out, groups)
    return _made(call, weight_out, dim=1)


def _couple_groups(call: Call, inputs: Tensor | None, weight_out: Tensor, groups: int) -> None:
    """Depthwise: input channel c owns outputs k c to k c + k - 1. Else position j of every block is one unit."""
    blocks = weight_out.view(groups, -1)
    if call["weight"].shape[1] > 1:
        call.atoms.unite(blocks, blocks[:1])
    elif inputs is None:
        call.freeze(weight_out, "its input channels are fixed, and a depthwise layer keeps them", KEEP)
    else:
        call.atoms.unite(blocks, inputs[:, None])


@rule("linear")
def linear(call: Call) -> Labels:
    """Weight ``[out, in]``; features are the last dimension, all others pass through."""
    weight_out, weight_in = _axis(call["weight"], 0), _axis(call["weight"], 1)
    last = len(call["input"].shape) - 1
    inputs = _channels(call, call["input"], last)
    if weight_in is not None:
        call.atoms.consume(weight_in)
        _read(call, inputs, weight_in)
    passed = tuple(resized(label, call.shape) for label in call["input"].labels if last not in varied(label))
    return passed if weight_out is None else (*passed, *_made(call, weight_out, dim=last))


def _axis(weight: Operand, dim: int) -> Tensor | None:
    label = weight.only(dim)
    return None if label is None else flat(label)


def _channels(call: Call, operand: Operand, dim: int) -> Tensor | None:
    """The atoms of the contracted dimension, None where its size is fixed; all that share a label with it freeze."""
    summed = range(dim, len(operand.shape))
    for label in operand.labels:
        if varied(label) != (dim,) and any(place in varied(label) for place in summed):
            call.freeze(label, "it slides over or mixes this dimension", KEEP)
    channels = operand.only(dim)
    return None if channels is None else flat(channels)


def _read(call: Call, inputs: Tensor | None, weight_in: Tensor) -> None:
    """Input channels and the weight's columns leave together."""
    if inputs is not None:
        call.atoms.unite(inputs, weight_in)


def _made(call: Call, weight_out: Tensor, dim: int) -> Labels:
    """Output channels: the weight's rows, and the bias with them."""
    call.atoms.make(weight_out)
    bias = call.get("bias")
    if isinstance(bias, Operand) and bias.only(0) is not None:
        call.atoms.unite(flat(bias.labels[0]), weight_out)
    return (along(weight_out, call.shape, dim),)
