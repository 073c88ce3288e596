"""A compressed model on disk: safetensors and JSON, never a pickle.

``plan.json`` holds the plan and, for each tensor and dimension, the indices that stay: ``restore`` needs neither
example inputs nor the names of groups. ``reference.safetensors`` holds a batch of inputs and what the model made of it.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from workbench.errors import Refused
from workbench.factorize import factorize_
from workbench.graph.inputs import Inputs
from workbench.graph.record import Cut, Factored, Record, recorded, remember
from workbench.graph.tensors import own_tensors
from workbench.graph.trace import trace
from workbench.graph.winnow import cut_model, rebuilt
from workbench.plan_file import fault_in
from workbench.reading import read_object
from workbench.whole import whole_file, write_text

if TYPE_CHECKING:
    from workbench.result import Result

AGAIN = "save the result again"
PLAN, WEIGHTS, REFERENCE, RESULT, REPORT = (
    "plan.json", "weights.safetensors", "reference.safetensors", "result.json", "report.html",
)  # fmt: skip


def save(result: Result, directory: Path) -> Path:
    """Write all files of a result; each appears whole or not at all."""
    from workbench.report import render

    directory.mkdir(parents=True, exist_ok=True)
    state, aliases = _distinct(result.model.state_dict())
    record = recorded(result.model)
    assert record is not None  # it comes from apply
    plan = {
        **result.plan.to_dict(),
        "name": result.source.name,
        "factors": [asdict(factored) for factored in record.factors],
        "cuts": [asdict(cut) for cut in record.cuts],
        "approximate": list(record.approximate),
        "rewritten": record.rewritten,
        "submodule": record.submodule,
        "inputs": _structure(result.graph.inputs),
        "aliases": aliases,
    }
    data = result.to_dict()
    texts = {  # made before any file is touched, and the plan written last
        RESULT: json.dumps(data, indent=1, allow_nan=False),
        REPORT: render(data),
        PLAN: json.dumps(plan, indent=1, allow_nan=False),
    }
    for name, tensors in ((WEIGHTS, state), (REFERENCE, _reference(result))):
        with whole_file(directory / name) as beside:
            save_file(tensors, beside)
    for name, text in texts.items():
        write_text(directory / name, text)
    return directory


def restore(model: nn.Module, directory: str | os.PathLike[str]) -> nn.Module:
    """The saved smaller model, built from a fresh instance of the original's class.

    Parameters
    ----------
    model : the original architecture; its weights do not matter and it is not changed
    directory : what ``Result.save`` wrote

    Raises
    ------
    ValueError
        The directory holds no artefact, or one of another model.
    """
    folder = Path(directory)
    plan = read_plan(folder)
    state = _tensors(folder / WEIGHTS)
    absent = [name for name in plan["aliases"].values() if name not in state]
    if absent:
        raise ValueError(f"{folder / PLAN} is damaged (it has an alias of {absent[0]}, which is nowhere); {AGAIN}")
    lost = [name for name, tensor in state.items() if tensor.is_floating_point() and tensor.isnan().any()]
    if lost:
        raise ValueError(f"{folder / WEIGHTS} is damaged ({lost[0]} holds NaN); {AGAIN}")
    small = _rebuilt(model, plan, folder)
    state |= {alias: state[name] for alias, name in plan["aliases"].items()}
    for name, tensor in small.state_dict().items():
        if name in state and state[name].dtype != tensor.dtype:
            raise ValueError(
                f"{name} in {folder} was saved as {state[name].dtype}, this {type(model).__name__} has {tensor.dtype}; "
                f"convert it first with .to({state[name].dtype})"
            )
    try:
        small.load_state_dict(state)
    except RuntimeError as error:
        said = " ".join(str(error).split())[:500]
        raise ValueError(f"the weights in {folder} do not fit this {type(model).__name__}: {said}") from error
    return small.eval()


def _rebuilt(model: nn.Module, plan: Mapping[str, Any], folder: Path) -> nn.Module:
    """The smaller model with the original's values."""
    cuts = tuple(Cut(**{**cut, "kept": tuple(cut["kept"])}) for cut in plan["cuts"])
    record = Record(cuts, tuple(plan["approximate"]), plan["rewritten"])
    own = own_tensors(model)
    graph = trace(model, reference_inputs(folder)) if record.rewritten else None
    shapes = {name: tensor.shape for name, tensor in (own if graph is None else graph.program.tensors).items()}
    for cut in cuts:
        found = shapes.get(cut.tensor)
        if found is None or cut.dim >= len(found) or found[cut.dim] != cut.size:
            raise ValueError(
                f"{folder} was made of a model whose {cut.tensor} has {cut.size} indices in dimension {cut.dim}; this "
                f"{type(model).__name__} has {'no such tensor' if found is None else f'the shape {list(found)}'}"
            )
    small = remember(cut_model(model, cuts) if graph is None else rebuilt(graph, model, record), record)
    factors = [Factored(**factored) for factored in plan.get("factors", ())]  # older artefacts have none
    try:
        return factorize_(small, factors, blank=True) if factors else small
    except (AttributeError, ValueError, Refused) as error:  # no such layer, no such method, or none that fits
        said = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{folder} was made of a model with other layers of lower rank than this {type(model).__name__} can have: "
            f"{said}"
        ) from error


def read_plan(folder: Path) -> Mapping[str, Any]:
    """``plan.json`` of an artefact."""
    path = folder / PLAN
    if not path.is_file():
        raise ValueError(f"{folder} holds no compressed model: there is no {PLAN} in it")
    plan = read_object(path, AGAIN)
    if type(plan.get("format")) is not int or plan["format"] != 1:
        raise ValueError(f"{path} has the format {plan.get('format')!r:.80}; this version of workbench reads format 1")
    fault = fault_in(plan)
    if fault:
        raise ValueError(f"{path} is damaged ({fault}); {AGAIN}")
    return plan


def _tensors(path: Path) -> dict[str, Tensor]:
    """What a safetensors file holds."""
    if not path.is_file():
        raise ValueError(f"{path.parent} holds no compressed model: there is no {path.name} in it")
    try:
        return load_file(path)
    except Exception as error:  # of the file's own format, or of a type or size that torch has no room for
        raise ValueError(f"{path} is damaged ({' '.join(str(error).split())[:200]}); {AGAIN}") from error


def replays(small: nn.Module, folder: Path) -> bool:
    """Whether a restored model gives the stored outputs on the stored inputs, bit for bit."""
    stored = _tensors(folder / REFERENCE)
    outputs = _outputs(small, reference_inputs(folder))
    return all(name in stored and torch.equal(stored[name], tensor) for name, tensor in outputs.items())


def reference_inputs(folder: Path) -> Inputs:
    """The stored batch of inputs."""
    stored, structure = _tensors(folder / REFERENCE), read_plan(folder)["inputs"]
    try:
        args, kwargs = (_filled(structure[part], stored) for part in ("args", "kwargs"))
    except KeyError as error:
        raise ValueError(f"{folder / REFERENCE} is damaged (it has no {error.args[0]}); {AGAIN}") from error
    return Inputs(args, kwargs)


def _structure(inputs: Inputs) -> dict[str, Any]:
    """The arguments as JSON; a tensor is the number of its place among all tensors."""
    places = count()

    def plain(value: Any) -> Any:
        if isinstance(value, Tensor):
            return {"tensor": next(places), "shape": list(value.shape), "dtype": str(value.dtype)}
        if isinstance(value, tuple):
            return {"tuple": [plain(item) for item in value]}
        if isinstance(value, list):
            return [plain(item) for item in value]
        if isinstance(value, Mapping):
            return {"dict": {key: plain(item) for key, item in value.items()}}
        return {"value": value}

    return {"args": plain(inputs.args), "kwargs": plain(dict(inputs.kwargs))}


def _filled(structure: Any, stored: Mapping[str, Tensor]) -> Any:
    """What ``_structure`` described, with the stored tensors."""
    if isinstance(structure, list):
        return [_filled(item, stored) for item in structure]
    ((kind, value), *_) = structure.items()
    if kind == "tensor":
        return stored[f"input.{value}"]
    if kind == "tuple":
        return tuple(_filled(item, stored) for item in value)
    return {key: _filled(item, stored) for key, item in value.items()} if kind == "dict" else value


def _reference(result: Result) -> dict[str, Tensor]:
    """A batch of four of the example inputs, varied where they are floats, with the model's outputs."""
    generator = torch.Generator().manual_seed(result.source.seed)

    def vary(tensor: Tensor) -> Tensor:
        noise = torch.rand(tensor.shape, generator=generator) if tensor.is_floating_point() else torch.zeros(1)
        return (tensor.cpu() + noise.to(tensor.dtype)).contiguous()

    inputs = result.graph.sample(4).map(vary)
    named = {f"input.{place}": tensor.clone() for place, tensor in enumerate(inputs.tensors())}
    return named | _outputs(result.model, inputs)


def _outputs(model: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    with torch.no_grad():
        leaves = pytree.tree_leaves(inputs(copy.deepcopy(model).eval()))
    # copies: a model may return its input, or one tensor twice
    return {
        f"output.{place}": leaf.contiguous().clone() for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)
    }


def _distinct(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors that are the same memory once, and the other names they have."""
    first: dict[Any, str] = {}
    distinct, aliases = {}, {}
    for name, tensor in state.items():
        memory = tensor.data_ptr(), tensor.shape, tensor.stride()  # not the storage: two views may share one
        owner = first.setdefault(memory, name) if tensor.numel() else name
        if owner == name:
            distinct[name] = tensor.detach().cpu().contiguous().clone()
        else:
            aliases[name] = owner
    return distinct, aliases
