"""Training that was interrupted: model, optimiser and progress in one safetensors file, never a pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from dis import get_instructions
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from workbench.graph.inputs import content_of
from workbench.whole import whole_file

FORMAT = "workbench finetune 2"
PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)


def save(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, progress: Mapping[str, Any]) -> None:
    """All in one file, written beside and renamed: it is whole whenever the process is killed."""
    found: dict[str, Tensor] = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    plain: dict[str, Any] = {}
    for index, entries in optimiser.state_dict()["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                found[f"optimizer.{index}.{name}"] = value
            elif value is None or isinstance(value, bool | int | float):
                plain[f"{index}.{name}"] = value
            else:
                kind = type(optimiser).__name__
                raise ValueError(f"{name} of {kind} is a {type(value).__name__}, not a number; leave checkpoint out")
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in found.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as beside:
        save_file(state, beside, metadata={"progress": json.dumps({"format": FORMAT, **progress, "plain": plain})})


def load(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, wanted: Mapping[str, Any]) -> list[float]:
    """Put a checkpoint's values into model and optimiser; returns the losses of its epochs.

    Raises
    ------
    ValueError
        It is no checkpoint, or one of other settings than those ``wanted``.
    """
    wanted = {"format": FORMAT, **wanted}
    try:
        with safe_open(path, framework="pt") as file:
            progress = json.loads((file.metadata() or {}).get("progress", "{}"))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is no checkpoint of finetune; remove it or name another") from error
    other = [name for name, value in wanted.items() if progress.get(name) != value]
    if other:
        raise ValueError(
            f"{path} was made with another {other[0]} ({progress.get(other[0])!s:.200}, now "
            f"{wanted[other[0]]!s:.200}); remove it or name another"
        )
    model.load_state_dict({name[6:]: tensor for name, tensor in state.items() if name.startswith("model.")})
    entries: dict[int, dict[str, Any]] = {}
    tensors = {name[10:]: tensor for name, tensor in state.items() if name.startswith("optimizer.")}
    for key, value in (progress["plain"] | tensors).items():
        index, name = key.split(".", 1)
        entries.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict(optimiser.state_dict() | {"state": entries})
    return list(progress["losses"])


def digest_of(model: nn.Module) -> str:
    """Of all that a model's state holds."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(content_of(tensor))
    return digest.hexdigest()[:16]


def digest_of_call(function: Any) -> str:
    """Of what a function does, as far as that can be seen: its code, and the data that it holds and names.

    Of other modules' functions, and of objects that it only uses, the name counts alone.
    """
    digest, inner = hashlib.sha256(), function
    while isinstance(inner, partial):
        inner = inner.func
    for part in _parts(function, str(getattr(inner, "__module__", "")), {}):
        digest.update(part + b"\n")
    return digest.hexdigest()[:16]


def _parts(value: Any, home: str, seen: dict[int, Any]) -> Iterator[bytes]:
    """What is the same in every process: no address, and sets in order."""

    def of(*values: Any) -> Iterator[bytes]:
        for each in values:
            yield from _parts(each, home, seen)

    first, kind = not seen, type(value)
    yield f"{kind.__module__}.{kind.__qualname__}".encode()
    if isinstance(value, PLAIN):
        yield repr(value).encode()
        return
    if id(value) in seen:
        return
    seen[id(value)] = value  # held, so that no other has its id
    if isinstance(value, Tensor):
        yield f"{value.dtype} {tuple(value.shape)}".encode()
        yield content_of(value) if value.layout is torch.strided else b""
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype} {value.shape}".encode()
        yield b"" if value.dtype.hasobject else value.tobytes()
    elif isinstance(value, partial):
        yield from of(value.func, value.args, value.keywords)
    elif isinstance(value, MethodType):
        owner = value.__self__
        plain = isinstance(owner, nn.Module) or not hasattr(owner, "__dict__")
        yield from of(value.__func__, owner if plain else vars(owner))
    elif isinstance(value, FunctionType):
        yield value.__qualname__.encode()
        if first or value.__module__ == home:
            yield from of(value.__code__, value.__defaults__, value.__kwdefaults__)
            for cell in value.__closure__ or ():
                with suppress(ValueError):  # it is empty
                    yield from of(cell.cell_contents)
            yield from of([value.__globals__.get(name) for name in _names(value.__code__)])
    elif isinstance(value, CodeType):
        yield value.co_code + repr(value.co_names).encode()
        yield from of(value.co_consts)
    elif isinstance(value, list | tuple):
        yield from of(*value)
    elif isinstance(value, set | frozenset):
        yield from sorted(b" ".join(_parts(each, home, seen)) for each in value)
    elif isinstance(value, Mapping):
        yield from of(*value.keys(), *value.values())
    elif isinstance(value, nn.Module):
        yield digest_of(value).encode()
        yield from of(kind.forward, {name: one for name, one in vars(value).items() if not name.startswith("_")})
    elif first:
        yield from of(kind.__call__, getattr(value, "__dict__", None))
    elif is_dataclass(value) and not isinstance(value, type):
        yield from of({one.name: getattr(value, one.name, None) for one in fields(value)})
    else:
        yield str(getattr(value, "__qualname__", getattr(value, "__name__", ""))).encode()


def _names(code: CodeType) -> list[str]:
    """The globals that it looks up, those in functions inside it, too."""
    own = [str(step.argval) for step in get_instructions(code) if step.opname == "LOAD_GLOBAL"]
    inner = [name for const in code.co_consts if isinstance(const, CodeType) for name in _names(const)]
    return [*own, *inner]
