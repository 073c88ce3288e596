"""``torch.export`` as we call it: in eval mode, the batch free where that is possible, and a refusal that helps."""

from __future__ import annotations

import builtins
import contextlib
import io
import logging
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from workbench import errors
from workbench.errors import Refused
from workbench.graph.inputs import Inputs
from workbench.graph.modes import evaluating

HINTS = {  # what PyTorch's own words hold -> what helps
    "DynamicCache": "turn the cache off, as by model.config.use_cache = False",
    "pytree": "register the class of its inputs or outputs: torch.export.register_dataclass(TheClass)",
}
OF_RECURRENT = r"The tensor attributes? (self\.[\w.]*_flat_weights\[\d+\],? )+w"  # PyTorch of its own LSTM
LOUD = ("torch._subclasses.fake_tensor", "torch.fx.experimental.symbolic_shapes")


def exported(model: nn.Module, inputs: Inputs) -> ExportedProgram:
    """A model in eval mode as PyTorch exports it.

    Raises
    ------
    Refused
        ``torch.export`` cannot follow the forward.
    """
    with refusing(model), evaluating(model), torch.no_grad():
        program = _export(model, inputs)
        if is_free(program) or (inputs.batch or 1) < 2:
            return program
        with mock.patch.object(builtins, "len", _length):  # the commonest way to fix a batch is len(x)
            again = _export(model, inputs)
        return again if is_free(again) else program


def _export(model: nn.Module, inputs: Inputs) -> ExportedProgram:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", OF_RECURRENT)
        return torch.export.export(
            model, inputs.args, dict(inputs.kwargs), dynamic_shapes=inputs.dynamic(), strict=False
        )  # fmt: skip


def _length(value: Any, length: Any = len) -> Any:
    """``len`` must be a plain number; the size of a tensor need not be."""
    return value.shape[0] if isinstance(value, Tensor) and value.ndim else length(value)


def is_free(program: ExportedProgram) -> bool:
    """Whether an input has a size that is not fixed."""
    values: list[Any] = [node.meta.get("val") for node in program.graph.find_nodes(op="placeholder")]
    sizes: list[Any] = [size for value in values if isinstance(value, Tensor) for size in value.shape]
    return any(isinstance(size, torch.SymInt) and size.node.maybe_as_int() is None for size in sizes)


@contextmanager
def refusing(model: nn.Module) -> Iterator[None]:
    """What goes wrong in here is refused in one sentence, with the line of the model's code.

    ``torch.export`` raises anything, also what the forward raises; and PyTorch logs and prints pages about it.
    """
    loggers = [logging.getLogger(name) for name in LOUD]
    before = [logger.disabled for logger in loggers]
    said = io.StringIO()
    try:
        for logger in loggers:
            logger.disabled = True
        with redirect_stderr(said):
            yield
        sys.stderr.write(said.getvalue())  # the forward's own words
    except Exception as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        usual = "run the model on these inputs to see whether they fit, or trace a part of it with submodule="
        remedy = next((hint for word, hint in HINTS.items() if word in str(error)), usual)
        why = f"it cannot follow the forward{_where(error)} ({line})"
        raise Refused("torch.export", type(model).__name__, why, remedy) from error
    finally:
        for logger, was in zip(loggers, before, strict=True):
            logger.disabled = was


def _where(error: BaseException) -> str:
    """The last line of the model's own code that an error came through; empty where it met none."""
    ours = (*(str(Path(module.__file__ or "").parent) for module in (torch, errors)), contextlib.__file__)
    found = ""
    while True:
        for frame in traceback.extract_tb(error.__traceback__):
            if frame.line and not frame.filename.startswith((*ours, "<")):
                found = f" at {frame.filename}:{frame.lineno}, `{frame.line}`"
        following = error.__cause__ or error.__context__
        if found or following is None:
            return found
        error = following
