"""Normalisations: by channel (exact), by groups of channels (whole groups: exact), over channels (approximate)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from workbench.graph.call import Call, Operand
from workbench.graph.labels import Labels, along, flat, varied
from workbench.graph.rules import rule
from workbench.graph.rules.elementwise import combine


@rule("_native_batch_norm_legit_no_training", "_native_batch_norm_legit", "batch_norm", "instance_norm")
def batch_norm(call: Call) -> object:
    """Each channel (dimension 1) by its own statistics: weight, bias, mean and variance leave with it.

    Where the statistics are the input's own they depend on all its other dimensions (weights are standardised so).
    """
    labels = call["input"].labels
    if call.op == "_native_batch_norm_legit" or call.get("training") or call.get("use_input_stats"):
        labels = across(call, labels, [dim for dim in range(len(call["input"].shape)) if dim != 1])
    labels = _scaled(call, labels, [1], ("weight", "bias", "running_mean", "running_var"))
    return [labels, (), ()] if call.op.startswith("_native") else labels


@rule("layer_norm", "rms_norm", "native_layer_norm", "_fused_rms_norm")
def layer_norm(call: Call) -> object:
    """Over the last dimensions. Whole slices of the others pass; losing some of the normalised ones is approximate."""
    inputs = call["input"]
    rank = len(inputs.shape)
    over = range(rank - len(call["normalized_shape"]), rank)
    labels = _scaled(call, across(call, inputs.labels, over), over, ("weight", "bias"))
    if call.op == "native_layer_norm":
        return [labels, (), ()]
    return [labels, ()] if call.op == "_fused_rms_norm" else labels


@rule("group_norm", "native_group_norm")
def group_norm(call: Call) -> object:
    """Groups of neighbouring channels (dimension 1). Whole groups leave; with a single group it is as a LayerNorm."""
    inputs = call["input"]
    groups = call.get("num_groups") or call.get("group")
    labels = across(call, inputs.labels, range(2, len(inputs.shape)))
    channels = Operand(inputs.shape, labels).only(1)
    if channels is not None and groups > 1:
        blocks = flat(channels).view(groups, -1)
        call.atoms.unite(blocks, blocks[:, :1])
    elif channels is not None:
        call.approximates(channels)
    labels = _scaled(call, labels, [1], ("weight", "bias"))
    return [labels, (), ()] if call.op == "native_group_norm" else labels


@rule("_weight_norm", "_weight_norm_interface")
def weight_norm(call: Call) -> object:
    """Each row of a weight has a length of its own; what is summed over for it changes that length."""
    direction, length = call["v"], call["g"]
    dim = call["dim"] % len(call.shape)
    labels = across(call, direction.labels, [d for d in range(len(call.shape)) if d != dim])
    found = combine(call, [Operand(call.shape, labels), length], call.shape)
    return [found, ()] if call.op == "_weight_norm_interface" else found


def across(call: Call, labels: Labels, dims: Collection[int]) -> Labels:
    """What passes an op that mixes all indices of some dimensions and keeps their number: all labels; those that vary
    along these dimensions alone are marked approximate, others keep whole slices."""
    kept = []
    for label in labels:
        apart = call.apart(label, dims)
        if apart is None:
            call.approximates(label)
        kept.append(label if apart is None else apart)
    return tuple(kept)


def _scaled(call: Call, labels: Labels, dims: Sequence[int], names: tuple[str, ...]) -> Labels:
    """The labels with those of tensors that are laid along some dimensions."""
    shape = call["input"].shape
    thin = torch.Size(size if dim in dims else 1 for dim, size in enumerate(shape))
    operands = [Operand(shape, labels)]
    for name in names:
        tensor = call.get(name)
        if isinstance(tensor, Operand):
            places = [(label, varied(label)) for label in tensor.labels]
            wide = tuple(along(flat(label), thin, dims[place[0]]) for label, place in places if len(place) == 1)
            operands.append(Operand(thin, wide))
    return combine(call, operands, shape) if len(operands) > 1 else labels
