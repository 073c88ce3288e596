"""An ONNX file as onnxruntime runs it, alone or in the place of the eager model."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from workbench.errors import Refused
from workbench.graph.inputs import Inputs
from workbench.graph.modes import evaluating


class Session:
    """A file in onnxruntime on the processor.

    Parameters
    ----------
    path : the file, or its bytes
    threads : of one operation; by default as many as PyTorch uses now

    Raises
    ------
    Refused
        onnxruntime has no kernel for an operation, or cannot read the file.
    """

    def __init__(self, path: str | os.PathLike[str] | bytes, threads: int | None = None):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.log_severity_level = 3  # errors; its warnings are of graphs that it simplifies
        source = path if isinstance(path, bytes) else os.fspath(path)
        try:
            self.session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # a class of its own for every code, with no common base
            said = str(error).splitlines()[0]
            raise Refused(
                "ONNX", "", f"onnxruntime cannot run the model ({said})",
                "use other operations or a precision that it has, such as float32; export_program writes a .pt2",
            ) from error  # fmt: skip
        self.names = [value.name for value in self.session.get_inputs()]

    def feed(self, inputs: Inputs) -> dict[str, Any]:
        """Inputs by name, as NumPy arrays."""
        return dict(zip(self.names, (tensor.cpu().numpy() for tensor in inputs.tensors()), strict=True))

    def run(self, inputs: Inputs) -> list[Tensor]:
        """All outputs, in order."""
        return [torch.from_numpy(array) for array in self.session.run(None, self.feed(inputs))]


class Served(nn.Module):
    """A session that is called like the eager model, and returns what that would, for evaluations of models."""

    def __init__(self, session: Session, model: nn.Module, inputs: Inputs):
        super().__init__()
        self.session = session
        with evaluating(model), torch.no_grad():
            self.leaves, self.structure = pytree.tree_flatten(inputs(model))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        found = iter(self.session.run(Inputs(args, kwargs)))
        leaves = [next(found) if isinstance(leaf, Tensor) else leaf for leaf in self.leaves]
        return pytree.tree_unflatten(leaves, self.structure)
