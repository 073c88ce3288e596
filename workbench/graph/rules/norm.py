"""Normalisations."""

from __future__ import annotations

from workbench.graph.call import Call, Operand
from workbench.graph.labels import Labels, along, flat, varied
from workbench.graph.rules import rule
from workbench.graph.rules.elementwise import combine

OVER_CHANNELS = "it normalises over these channels, so that leaving any changes the others"


@rule("_native_batch_norm_legit_no_training", "batch_norm", "instance_norm")
def batch_norm(call: Call) -> object:
    """Each channel (dimension 1) by its own statistics: weight, bias, mean and variance leave with it."""
    inputs = call["input"]
    operands = [inputs]
    for name in ("weight", "bias", "running_mean", "running_var"):
        tensor = call.get(name)
        if isinstance(tensor, Operand):
            labels = tuple(along(flat(label), inputs.shape, 1) for label in tensor.labels)
            operands.append(Operand(inputs.shape, labels))
    labels = combine(call, operands, inputs.shape) if len(operands) > 1 else inputs.labels
    return labels if call.op != "_native_batch_norm_legit_no_training" else [labels, (), ()]


@rule("layer_norm", "rms_norm", "native_layer_norm")
def layer_norm(call: Call) -> object:
    """Over the last dimensions; the others pass."""
    inputs = call["input"]
    first = len(inputs.shape) - len(call["normalized_shape"])
    crossing = [label for label in inputs.labels if varied(label)[-1] >= first]
    for label in crossing:
        call.freeze(label, OVER_CHANNELS, "shrink the layers inside the block, not the width of its residual stream")
    kept: Labels = tuple(label for label in inputs.labels if varied(label)[-1] < first)
    fixed = [label for name in ("weight", "bias") if isinstance(call.get(name), Operand) for label in call[name].labels]
    for label in fixed:
        call.freeze(label, OVER_CHANNELS, "shrink the layers inside the block, not the width of its residual stream")
    # the output's width is as fixed as the input's: it carries the frozen labels on, so that the reason is kept
    labels = (*kept, *crossing)
    return labels if call.op != "native_layer_norm" else [labels, kept, kept]
