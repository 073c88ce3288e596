"""ONNX, checked against onnxruntime."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from workbench.deploy.export import Exported, checked, whole_files
from workbench.errors import Refused
from workbench.extras import need
from workbench.graph.exporting import exported, is_free
from workbench.graph.inputs import Inputs
from workbench.graph.modes import evaluating

if TYPE_CHECKING:
    import onnx

NEEDS = ("onnx", "onnxscript", "onnxruntime")
INLINE = 2**31 - 2**24  # bytes of weights that fit into one protocol buffer


def export_onnx(
    model: nn.Module, example_inputs: Any, path: str | os.PathLike[str], *, opset: int | None = None
) -> Exported:
    """Write a model as ONNX. Inputs keep the names of the forward's arguments, the batch is called ``batch``.

    Parameters
    ----------
    model : any module, also a winnowed one; it is exported in eval mode and left as it was
    example_inputs : a tensor (the one input), a tuple (positional) or a dict (keyword); batch first
    path : the file, customarily ``.onnx``; it appears whole or not at all. Above 2 GB the weights are beside it
    opset : of ONNX; by default what PyTorch takes

    Raises
    ------
    ModuleNotFoundError
        onnx, onnxscript or onnxruntime is missing.
    Refused
        PyTorch cannot translate an operation, or onnxruntime computes something else.
    """
    need("ONNX", NEEDS, "onnx")
    inputs, target = Inputs.of(example_inputs).take(2), Path(path)
    program = exported(model, inputs)
    with evaluating(model), torch.no_grad():
        names = _output_names(inputs(model))
    with whole_files(target) as beside:
        _write(program, beside, names, opset)
        worst, batches = checked(model, inputs, _Session(beside).run, is_free(program), "ONNX")
    return Exported(target, worst, is_free(program), batches)


def _output_names(output: Any) -> list[str]:
    """``output`` for a single tensor, else the keys and places that lead to each."""
    places, _ = pytree.tree_flatten_with_path(output)
    found = [place for place, leaf in places if isinstance(leaf, Tensor)]
    parts = ["_".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in place) for place in found]
    return ["output" if not part else part if part[0].isalpha() else f"output_{part}" for part in parts]


def _write(program: torch.export.ExportedProgram, path: Path, names: list[str], opset: int | None) -> None:
    options: dict[str, Any] = {} if opset is None else {"opset_version": opset}
    try:
        with _quiet():
            found = torch.onnx.export(program, dynamo=True, verbose=False, output_names=names, **options)
    except Exception as error:  # the exporter raises anything
        raise Refused(
            "ONNX", "", f"PyTorch cannot translate the model ({str(error).splitlines()[0]})",
            "export_program writes a .pt2, which holds any operation",
        ) from error  # fmt: skip
    assert found is not None
    weights = sum(tensor.nbytes for tensor in program.state_dict.values())
    found.save(path, external_data=weights > INLINE)
    _name_batch(path)


def _name_batch(path: Path) -> None:
    """Call the one free size what it is: PyTorch numbers it."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    free = {dim.dim_param for value in graph.input for dim in _dims(value) if dim.dim_param}
    if len(free) != 1:
        return
    (symbol,) = free
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in _dims(value):
            if dim.dim_param == symbol:
                dim.dim_param = "batch"
    onnx.save(model, path)


def _dims(value: onnx.ValueInfoProto) -> list[Any]:
    return list(value.type.tensor_type.shape.dim)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter logs its progress and warns of its own internals."""
    logger = logging.getLogger("torch.onnx")
    before, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


class _Session:
    """An ONNX file as onnxruntime runs it."""

    def __init__(self, path: Path):
        import onnxruntime

        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(self, inputs: Inputs) -> list[Tensor]:
        """All outputs, in order."""
        names = [value.name for value in self.session.get_inputs()]
        given = dict(zip(names, (tensor.cpu().numpy() for tensor in inputs.tensors()), strict=True))
        return [torch.from_numpy(array) for array in self.session.run(None, given)]
