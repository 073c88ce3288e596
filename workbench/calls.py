"""What a function is, as far as that can be seen: a digest that is the same in every process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from dis import get_instructions
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from workbench.checkpoint import digest_of
from workbench.graph.inputs import content_of

PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)


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
