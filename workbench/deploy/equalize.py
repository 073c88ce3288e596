"""Equalisation across layers: channels of one tensor get like ranges, and what is computed stays the same.

After Nagel et al., "Data-free quantization through weight equalization and bias correction" (2019), with the range of a
channel as the calibration data show it: weights have a scale for each output channel in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from workbench.deploy.weights import LAYERS, Weights

if TYPE_CHECKING:
    import onnx

# f(s * x) = s * f(x) for s > 0, channel by channel
HOMOGENEOUS = ("Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean",
               "Identity", "Reshape", "Flatten")  # fmt: skip
MOST = 2.0**12  # by which a channel is scaled: its products stay far from overflow

Ranges = Callable[["onnx.ModelProto", Sequence[str]], Mapping[str, np.ndarray]]  # largest magnitude by channel


@dataclass
class Bundle:
    """Tensors that carry the same channels: the layers that write them and those that read them."""

    writers: list[onnx.NodeProto] = field(default_factory=list)
    readers: list[onnx.NodeProto] = field(default_factory=list)
    values: set[str] = field(default_factory=set)
    free: bool = True  # nothing else reads or writes them


def equalized(model: onnx.ModelProto, ranges: Ranges) -> tuple[onnx.ModelProto, int]:
    """A copy of a model whose channels are scaled, and how many bundles of tensors were.

    A channel of range ``a`` that is read by columns of range ``w`` is divided by sqrt(a / w) where it is made, and its
    columns are multiplied: both are sqrt(a w) then. Factors are powers of two, with which floating-point numbers are
    multiplied exactly, so that the outputs stay the same to the last bit.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    weights = Weights(copy)
    bundles = bundles_of(copy, weights)
    if not bundles:
        return copy, 0
    found = ranges(model, sorted({reader.input[0] for bundle in bundles for reader in bundle.readers}))
    for bundle in bundles:
        _scale(bundle, weights, found)
    weights.store()
    return copy, len(bundles)


def bundles_of(model: onnx.ModelProto, weights: Weights) -> list[Bundle]:
    """The bundles whose channels can be scaled: only layers and homogeneous operations touch them."""
    channels = _channels(model)
    bundles: dict[str, Bundle] = {}

    def of(value: str) -> Bundle:
        return bundles.setdefault(value, Bundle(values={value}))

    def unite(values: Sequence[str]) -> None:
        first, *others = (of(value) for value in values)
        for other in others:
            if other is not first:
                first.writers += other.writers
                first.readers += other.readers
                first.values |= other.values
                first.free &= other.free
                bundles.update(dict.fromkeys(other.values, first))

    for node in model.graph.node:
        computed = [name for name in node.input if name and name not in weights]
        if node.op_type in LAYERS and len(computed) == 1 and weights.fit(node):
            of(node.input[0]).readers.append(node)
            of(node.output[0]).writers.append(node)
        elif node.op_type in HOMOGENEOUS and _keeps(channels, node):
            unite([node.input[0], node.output[0]])
        elif node.op_type == "Add" and _adds(channels, node, computed):
            unite([*node.input, node.output[0]])
        else:
            for name in (*computed, *node.output):
                of(name).free = False
    for value in (*model.graph.input, *model.graph.output):
        of(value.name).free = False
    distinct = {id(bundle): bundle for bundle in bundles.values()}.values()
    return [bundle for bundle in distinct if bundle.free and bundle.writers and bundle.readers]


def _channels(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Sizes behind the batch, of the tensors of which they are known."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model).graph
    found = {}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        dims = value.type.tensor_type.shape.dim
        if len(dims) > 1 and all(dim.HasField("dim_value") for dim in dims[1:]):
            found[value.name] = tuple(dim.dim_value for dim in dims[1:])
    return found


def _keeps(channels: Mapping[str, tuple[int, ...]], node: onnx.NodeProto) -> bool:
    """Whether channels stay in dimension 1, or all positions of a channel are flattened behind each other."""
    before, after = (channels.get(name) for name in (node.input[0], node.output[0]))
    if before is None or after is None:
        return False
    return after[0] == before[0] or (len(after) == 1 and after[0] == int(np.prod(before)))


def _adds(channels: Mapping[str, tuple[int, ...]], node: onnx.NodeProto, computed: Sequence[str]) -> bool:
    sizes = {channels.get(name) for name in node.input}
    return len(computed) == 2 and len(sizes) == 1 and None not in sizes


def _scale(bundle: Bundle, weights: Weights, ranges: Mapping[str, np.ndarray]) -> None:
    channels = weights.arrays[bundle.writers[0].input[1]].shape[0]
    made = np.max([ranges[reader.input[0]].reshape(channels, -1).max(1) for reader in bundle.readers], axis=0)
    read = np.max(
        [np.abs(weights.columns(reader, channels)).max((1, 3)).reshape(-1) for reader in bundle.readers], axis=0
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        wanted = np.where((made > 0) & (read > 0), np.sqrt(made / read), 1.0)
    wanted /= np.exp(np.log(wanted).mean())  # the tensor as a whole stays as large as it was
    factors = np.exp2(np.rint(np.log2(np.clip(wanted, 1 / MOST, MOST)))).astype(np.float32)
    for reader in bundle.readers:
        columns = weights.columns(reader, channels)
        columns *= factors.reshape(len(columns), 1, -1, 1)
    for writer in bundle.writers:
        for name in writer.input[1:]:
            if name:
                array = weights.arrays[name]
                array /= factors.reshape(-1, *[1] * (array.ndim - 1))
