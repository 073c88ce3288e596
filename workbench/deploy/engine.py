"""onnxruntime as an engine of ``measure_latency``: milliseconds of the exported file, not of PyTorch."""

from __future__ import annotations

import time
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from workbench.cost.engine import WARM_UP, Call
from workbench.deploy.onnx import export_onnx
from workbench.deploy.session import Arguments, Session
from workbench.graph.call import op_name
from workbench.graph.inputs import Inputs, device_of

# what onnxruntime does within the convolution before
FUSED = ("batch_norm", "relu", "relu_", "hardtanh", "hardtanh_", "dropout")
DIMENSIONS = {"conv1d": 1, "conv2d": 2, "conv3d": 3}
OPSET = 17


@dataclass(frozen=True)
class OnnxRuntime:
    """onnxruntime on the processor, by the wall's clock.

    A model is exported, once, and its file is timed. Of single operations, convolutions and linear layers are files of
    a node or two; what is fused into these takes no time; the others are timed in PyTorch. What that is wrong by is
    fitted to the whole models, as for every table.

    Raises
    ------
    ValueError
        A model is on another device.
    """

    files: MutableMapping[nn.Module, tuple[Session, Arguments]] = field(
        default_factory=WeakKeyDictionary, compare=False, repr=False
    )

    @property
    def name(self) -> str:
        """See ``Engine``."""
        return "onnxruntime"

    def times(self, calls: Sequence[Call], samples: int) -> list[list[float]]:
        """See ``Engine``."""
        runs = [self._run_of(call) for call in calls]
        found: list[list[float]] = [[] for _ in calls]
        for number in range(-WARM_UP, samples):
            for run, call, times in zip(runs, calls, found, strict=True):
                start = time.perf_counter()
                if run is None:
                    call()
                else:
                    run()
                if number >= 0:
                    times.append(1e3 * (time.perf_counter() - start))
        return [
            [0.0] * samples if op_name(call.function) in FUSED else times
            for call, times in zip(calls, found, strict=True)
        ]

    def _run_of(self, call: Call) -> Any:
        """What onnxruntime does for a call; None where PyTorch does it."""
        if isinstance(call.function, nn.Module):
            inputs = Inputs(call.args, call.kwargs)
            device = device_of(inputs.tensors())
            if device.type != "cpu":
                raise ValueError(f"onnxruntime is timed on the processor, not on {device}; give device='cpu'")
            session, arguments = self._file(call.function, inputs)
            return partial(session.session.run, None, session.feed(arguments.like(inputs)))
        model = _single(op_name(call.function), call.kwargs)
        if model is None:
            return None
        session = Session(model)
        return partial(session.session.run, None, {"x": call.kwargs["input"].detach().cpu().numpy()})

    def _file(self, model: nn.Module, inputs: Inputs) -> tuple[Session, Arguments]:
        if model not in self.files:
            with TemporaryDirectory() as folder:
                path = export_onnx(model, inputs, Path(folder) / "model.onnx").path
                self.files[model] = Session(path), Arguments(model, inputs)
        return self.files[model]


def _single(name: str, given: Any) -> bytes | None:
    """A convolution or a linear layer as a model of one node; None for anything else."""
    from onnx import TensorProto, helper, numpy_helper

    if (name not in DIMENSIONS and name != "linear") or isinstance(given.get("padding"), str):
        return None
    weights = {key: given.get(key) for key in ("weight", "bias")}
    held = {key: value.detach().cpu() for key, value in weights.items() if isinstance(value, Tensor)}
    if name == "linear":
        held["weight"] = held["weight"].T.contiguous()
        nodes = [helper.make_node("MatMul", ["x", "weight"], ["product" if "bias" in held else "y"])]
        nodes += [helper.make_node("Add", ["product", "bias"], ["y"])] if "bias" in held else []
    else:
        nodes = [helper.make_node("Conv", ["x", *held], ["y"], **_attributes(DIMENSIONS[name], given))]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, list(given["input"].shape))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    constants = [numpy_helper.from_array(value.numpy(), key) for key, value in held.items()]
    graph = helper.make_graph(nodes, name, [x], [y], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    written: bytes = model.SerializeToString()
    return written


def _attributes(dimensions: int, given: Any) -> dict[str, Any]:
    def each(key: str, default: int) -> list[int]:
        value = given.get(key, default)
        values = list(value) if isinstance(value, list | tuple) else [value]
        return values * dimensions if len(values) == 1 else values

    pads = each("padding", 0)
    return {"strides": each("stride", 1), "pads": pads + pads, "dilations": each("dilation", 1),
            "group": given.get("groups", 1)}  # fmt: skip
