"""Bias correction: what rounding the weights adds to a layer's output on average leaves its bias.

After Nagel et al., "Data-free quantization through weight equalization and bias correction" (2019), section 4.2, with
the mean over the calibration data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from workbench.deploy.weights import LAYERS, Weights

if TYPE_CHECKING:
    import onnx

Means = Callable[["onnx.ModelProto", Sequence[str]], Mapping[str, np.ndarray]]  # the mean of a tensor by channel


def corrected(model: onnx.ModelProto, quantized: onnx.ModelProto, means: Means) -> onnx.ModelProto:
    """A copy of a float model with biases for the rounded weights of its int8 twin.

    The rounding errors are layers themselves: beside each layer stands another with the difference of the weights,
    whose mean output over the data is what the bias must give.
    """
    import onnx
    from onnx import helper, numpy_helper

    copy, probe = onnx.ModelProto(), onnx.ModelProto()
    copy.CopyFrom(model)
    probe.CopyFrom(model)
    weights, rounded = Weights(copy), _rounded(quantized)
    layers = [node for node in copy.graph.node
              if node.op_type in LAYERS and weights.fit(node) and node.input[1] in rounded]  # fmt: skip
    for layer in layers:
        name = layer.input[1]
        lost = numpy_helper.from_array(weights.arrays[name] - rounded[name], f"{name}.lost")
        twin = helper.make_node(layer.op_type, [layer.input[0], lost.name], [f"{layer.output[0]}.lost"])
        twin.attribute.extend(layer.attribute)
        probe.graph.initializer.append(lost)
        probe.graph.node.append(twin)
    found = {} if not layers else means(probe, [f"{layer.output[0]}.lost" for layer in layers])
    for layer in layers:
        shift = found[f"{layer.output[0]}.lost"].astype(np.float32)
        if len(layer.input) > 2 and layer.input[2]:
            weights.arrays[layer.input[2]] = weights.arrays[layer.input[2]] + shift
        else:
            bias = numpy_helper.from_array(shift, f"{layer.output[0]}.bias")
            copy.graph.initializer.append(bias)
            weights.arrays[bias.name] = shift
            del layer.input[2:]
            layer.input.append(bias.name)
    weights.store()
    return copy


def _rounded(quantized: onnx.ModelProto) -> dict[str, np.ndarray]:
    """The weights that an int8 model computes with, by their names in the float model."""
    from onnx import numpy_helper

    arrays = {one.name: numpy_helper.to_array(one) for one in quantized.graph.initializer}
    found = {}
    for node in quantized.graph.node:
        if node.op_type == "DequantizeLinear" and all(name in arrays for name in node.input[:2]):
            values, scale = (arrays[name] for name in node.input[:2])
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            shape = [1] * values.ndim
            if scale.ndim:
                shape[axis] = -1
            found[node.input[0].removesuffix("_quantized")] = values.astype(np.float32) * scale.reshape(shape)
    return found
