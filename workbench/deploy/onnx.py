"""ONNX, checked against onnxruntime."""

from __future__ import annotations

import json
import logging
import os
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from workbench import extras
from workbench.deploy.export import Exported, checked, whole_files
from workbench.deploy.int8 import Int8, Quantized
from workbench.deploy.quantize import OPSET, Quantizer
from workbench.deploy.session import Session
from workbench.errors import Refused
from workbench.graph.exporting import exported, is_free
from workbench.graph.inputs import Inputs
from workbench.graph.modes import evaluating
from workbench.result import command_line

if TYPE_CHECKING:
    import onnx

INLINE = 2**31 - 2**24  # bytes of weights that fit into one protocol buffer


def export_onnx(
    model: nn.Module, example_inputs: Any, path: str | os.PathLike[str], *, opset: int | None = None,
    int8: Int8 | None = None, made: Mapping[str, str] | None = None,
) -> Exported:  # fmt: skip
    """Write a model as ONNX. Inputs keep the names of the forward's arguments, the batch is called ``batch``.

    Parameters
    ----------
    model : any module, also a winnowed one; it is exported in eval mode and left as it was
    example_inputs : a tensor (the one input), a tuple (positional) or a dict (keyword); batch first
    path : the file, customarily ``.onnx``; it appears whole or not at all. Above 2 GB the weights are beside it
    opset : of ONNX; by default what PyTorch takes
    int8 : quantise it by onnxruntime, after the float file was checked; what that costs is in ``.int8``
    made : what else the file shall say of how it was made, under ``workbench.`` and the key

    Raises
    ------
    ModuleNotFoundError
        onnx, onnxscript or onnxruntime is missing.
    ValueError
        int8 needs a later opset, or its calibration data has other inputs than the example.
    OSError
        The file cannot be written there.
    Refused
        PyTorch cannot translate an operation, onnxruntime has none for it, or computes something else.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "small.onnx"
    >>> export_onnx(nn.Linear(3, 2), torch.randn(1, 3), file, int8=Int8(torch.randn(64, 3))).int8.error < 0.1
    True
    """
    extras.need("ONNX", extras.ONNX, "onnx")
    if int8 is not None and opset is not None and opset < OPSET:
        raise ValueError(f"opset={opset} has no scale for each channel, which int8 needs; give {OPSET} or more")
    inputs, target = Inputs.of(example_inputs).take(2), Path(path)
    with whole_files(target) as beside:  # first of all: it may not be possible to write there
        program = exported(model, inputs)
        with evaluating(model), torch.no_grad():
            names = _output_names(inputs(model), [str(name) for name in program.graph_signature.user_inputs])
        _write(program, beside, names, opset)
        worst, batches = checked(model, inputs, Session(beside).run, is_free(program), "ONNX")
        quantized = None if int8 is None else _quantized(beside, model, inputs, int8, is_free(program))
        _describe(beside, model, made or {}, quantized)
    return Exported(target, worst, is_free(program), batches, quantized)


def made_by(plan: Mapping[str, Any]) -> dict[str, str]:
    """What a file shall say of the plan behind it, for ``made``: plan, fingerprint of the original, command."""
    return {"plan": json.dumps(plan), "fingerprint": plan["model"], "command": command_line()}


def _quantized(beside: Path, model: nn.Module, example: Inputs, int8: Int8, any_batch: bool) -> Quantized:
    """Put an int8 file in the place of a float one."""
    if not any_batch:
        raise Refused("int8", "", "the forward fixes the batch", "let it take the size from x.shape[0]")
    if sum(tensor.nbytes for tensor in model.state_dict().values()) > INLINE:
        raise Refused("int8", "", "the weights are above 2 GB", "leave out int8= to keep float32")
    others = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()} - {torch.float32}
    if others:
        raise Refused(
            "int8", type(model).__name__, f"onnxruntime quantises float32, not {others.pop()}",
            "give model.float() and float32 inputs, or leave out int8=",
        )  # fmt: skip
    with TemporaryDirectory() as folder:
        return Quantizer(beside, model, example, int8, Path(folder)).run(beside)


def _describe(path: Path, model: nn.Module, made: Mapping[str, str], quantized: Quantized | None) -> None:
    """Write into a file how it was made, as its ``metadata_props``."""
    import onnx

    found = {"version": version("workbench"), "class": type(model).__name__, **made}
    if quantized is not None:
        found["int8"] = json.dumps(quantized.to_dict())
    file = onnx.load(path, load_external_data=False)
    onnx.helper.set_model_props(file, {f"workbench.{key}": value for key, value in found.items()})
    onnx.save(file, path)


def _output_names(output: Any, inputs: Sequence[str]) -> list[str]:
    """``output`` for a single tensor, else the keys and places that lead to each; ``output_`` before it where that is
    an input's name, and a number behind it where it is another output's."""
    names: list[str] = []
    for place, leaf in pytree.tree_leaves_with_path(output):
        if isinstance(leaf, Tensor):
            name = "_".join(map(_told, place))
            if not name[:1].isalpha() or name in inputs:
                name = f"output_{name}".rstrip("_")
            free = (name, *(f"{name}_{number}" for number in range(2, len(inputs) + len(names) + 3)))
            names.append(next(one for one in free if one not in inputs and one not in names))
    return names


def _told(key: Any) -> str:
    """A key of a dict, a place in a list or the name of a field."""
    return str(next((getattr(key, what) for what in ("key", "idx", "name") if hasattr(key, what)), key))


def _clear(graph: Any, names: Collection[str]) -> None:
    """Other values that have the names of outputs get others: the exporter calls them after operations."""
    inner = [value for node in graph for value in node.outputs] + list(graph.initializers.values())
    for value in inner:
        if value.name in names and value not in graph.outputs:
            value.name = f"{value.name}_inside"


def _cause(error: BaseException) -> str:
    """The first line of what lies at the bottom: what is above says how to report it, in colours."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = re.sub(r"\x1b\[[\d;]*m", "", str(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _write(program: torch.export.ExportedProgram, path: Path, names: list[str], opset: int | None) -> None:
    options: dict[str, Any] = {} if opset is None else {"opset_version": opset}
    try:
        with _quiet():
            found = torch.onnx.export(program, dynamo=True, verbose=False, output_names=names, **options)
    except Exception as error:  # the exporter raises anything
        raise Refused(
            "ONNX", "", f"PyTorch cannot translate the model ({_cause(error)})",
            "export_program writes a .pt2, which holds any operation",
        ) from error  # fmt: skip
    assert found is not None
    _clear(found.model.graph, names)
    written = found.model.opset_imports[""]
    if opset is not None and written != opset:
        raise Refused(
            "ONNX", "", f"PyTorch cannot write the model in opset {opset} (it gave {written})",
            f"leave opset out, or give {written} or more",
        )  # fmt: skip
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
