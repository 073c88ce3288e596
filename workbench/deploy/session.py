"""An ONNX file as onnxruntime runs it, alone or in the place of the eager model."""

from __future__ import annotations

import inspect
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
        """Inputs by name, as NumPy arrays; they are in the order of the file's, see ``Arguments``."""
        return dict(zip(self.names, (tensor.cpu().numpy() for tensor in inputs.tensors()), strict=True))

    def run(self, inputs: Inputs) -> list[Tensor]:
        """All outputs, in order."""
        return [torch.from_numpy(array) for array in self.session.run(None, self.feed(inputs))]


class Arguments:
    """How the example was given that a file was exported with: in this order the file has its inputs."""

    def __init__(self, model: nn.Module, example: Inputs):
        self.signature = inspect.signature(model.forward)
        leaves, self.structure = pytree.tree_flatten((example.args, dict(example.kwargs)))
        marks = [object() for _ in leaves]
        args, kwargs = pytree.tree_unflatten(marks, self.structure)
        places = {id(mark): place for place, mark in self._named(Inputs(args, kwargs)).items()}
        self.order = [places[id(mark)] for mark in marks]
        self.kinds = _kinds(self._named(example))

    def like(self, inputs: Inputs) -> Inputs:
        """The same inputs as the example was given: arguments are found by the forward's names for them.

        Raises
        ------
        ValueError
            They are others than the example's.
        """
        try:
            found = self._named(inputs)
        except TypeError as error:
            raise ValueError(self._differs(f"the forward takes no such arguments ({error})")) from None
        if (kinds := _kinds(found)) != self.kinds:
            raise ValueError(self._differs(f"not with {_told(kinds)}"))
        args, kwargs = pytree.tree_unflatten([found.get(place) for place in self.order], self.structure)
        return Inputs(args, kwargs)

    def _named(self, inputs: Inputs) -> dict[str, Any]:
        """All tensors and constants by the argument in which they are, and the place there."""
        bound = self.signature.bind(*inputs.args, **inputs.kwargs)
        bound.apply_defaults()
        found = {}
        for name, value in bound.arguments.items():
            for path, leaf in pytree.tree_leaves_with_path(value):
                found[f"{name}{pytree.keystr(path)}"] = leaf
        return found

    def _differs(self, how: str) -> str:
        return (
            f"the file was exported with {_told(self.kinds)}, {how}; give batches of the same inputs, and no labels "
            "among them"
        )


def _kinds(named: dict[str, Any]) -> dict[str, Any]:
    """Which are tensors, and the constants that are in the place of others; None says nothing."""
    return {place: Tensor if isinstance(leaf, Tensor) else leaf for place, leaf in named.items() if leaf is not None}


def _told(kinds: dict[str, Any]) -> str:
    return ", ".join(place if kind is Tensor else f"{place}={kind!r}" for place, kind in kinds.items())


class Served(nn.Module):
    """A session that is called like the eager model, and returns what that would, for evaluations of models."""

    def __init__(self, session: Session, model: nn.Module, example: Inputs):
        super().__init__()
        self.session, self.arguments = session, Arguments(model, example)
        with evaluating(model), torch.no_grad():
            self.leaves, self.structure = pytree.tree_flatten(example(model))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        found = iter(self.session.run(self.arguments.like(Inputs(args, kwargs))))
        leaves = [next(found) if isinstance(leaf, Tensor) else leaf for leaf in self.leaves]
        return pytree.tree_unflatten(leaves, self.structure)
