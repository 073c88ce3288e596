"""The constant tensors of an ONNX model, and the layers that own them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

LAYERS = ("Conv", "Gemm")


class Weights:
    """The constant tensors of a model as arrays that can be changed, and put back."""

    def __init__(self, model: onnx.ModelProto):
        from onnx import numpy_helper

        self.model = model
        self.arrays: dict[str, Any] = {one.name: numpy_helper.to_array(one).copy() for one in model.graph.initializer}
        self.uses: dict[str, int] = {}
        for node in model.graph.node:
            for name in node.input:
                self.uses[name] = self.uses.get(name, 0) + 1

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def fit(self, node: onnx.NodeProto) -> bool:
        """Whether a layer owns its weight and bias, and outputs are the weight's first dimension."""
        own = all(name in self.arrays and self.uses[name] == 1 for name in node.input[1:] if name)
        usual = {"transA": 0, "transB": 1, "alpha": 1.0, "beta": 1.0}
        found = {"transA": 0, "transB": 0, "alpha": 1.0, "beta": 1.0} | {a.name: a.f or a.i for a in node.attribute}
        return own and (node.op_type == "Conv" or all(found[key] == value for key, value in usual.items()))

    def columns(self, node: onnx.NodeProto, channels: int) -> Any:
        """A layer's weight as ``[groups, outputs of a group, inputs of a group, ...]``: a view, groups x inputs are
        the channels, in order; a flattened input has several columns a channel."""
        weight = self.arrays[node.input[1]]
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        inside = channels // groups
        return weight.reshape(groups, weight.shape[0] // groups, inside, -1)

    def store(self) -> None:
        """Put the arrays into the model."""
        from onnx import numpy_helper

        for one in self.model.graph.initializer:
            one.CopyFrom(numpy_helper.from_array(self.arrays[one.name], one.name))


def attends(model: onnx.ModelProto) -> bool:
    """Whether a product has two factors that were computed."""
    constant = {one.name for one in model.graph.initializer}
    return any(node.op_type == "MatMul" and constant.isdisjoint(node.input) for node in model.graph.node)


def unfit(model: onnx.ModelProto) -> tuple[str, ...]:
    """The nodes that onnxruntime cannot quantise: transposed convolutions in groups, whose scales it miscounts."""
    return tuple(
        node.name for node in model.graph.node
        if node.op_type == "ConvTranspose" and any(a.name == "group" and a.i > 1 for a in node.attribute)
    )  # fmt: skip


def layers_of(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes with a weight that int8 makes smaller."""
    constant = {one.name for one in model.graph.initializer}
    return [node for node in model.graph.node if node.op_type in (*LAYERS, "MatMul") and node.input[1] in constant]
