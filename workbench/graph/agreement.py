"""Data of another size than the example inputs: the exported operations may hold sizes that were right there alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from workbench.graph.inputs import Inputs
from workbench.graph.modes import evaluating
from workbench.graph.program import Program

TOLERANCE = 1e-3  # relative: a size that is wrong changes more, rounding less, but in half precision
REMEDY = "give example inputs of the size of your data, or let the forward take every size from its inputs"


class Agreement:
    """Compares the program with the model once for every size that inputs come in.

    Parameters
    ----------
    model, program : the original, and what was exported of it
    example : inputs of the size that it was exported at
    """

    def __init__(self, model: nn.Module, program: Program, example: Inputs):
        self.model, self.program = model, program
        self.seen = {_size(example)}

    @torch.no_grad()
    def check(self, inputs: Inputs) -> None:
        """Raises ValueError where they differ, or the program does not run."""
        size = _size(inputs)
        if size in self.seen:
            return
        self.seen.add(size)
        few = inputs.take(2) if self.program.any_batch else inputs
        told = ", ".join("x".join(map(str, shape)) or "a number" for shape in size)
        try:
            found = self.program(few)
        except RuntimeError as error:
            why = str(error).strip().splitlines()[0]
            raise ValueError(f"inputs of the size {told} cannot follow what was traced ({why}); {REMEDY}") from error
        with evaluating(self.model):
            wanted = few(self.model)
        if not _alike(wanted, found):
            raise ValueError(f"at inputs of the size {told} the model computes another thing than was traced; {REMEDY}")


def _size(inputs: Inputs) -> tuple[tuple[int, ...], ...]:
    """All dimensions but the samples'."""
    batch = inputs.batch is not None
    return tuple(tuple(tensor.shape[1:] if batch else tensor.shape) for tensor in inputs.tensors())


def _alike(wanted: Any, found: Any) -> bool:
    pairs = zip(*map(pytree.tree_leaves, (wanted, found)), strict=True)
    tensors = [(one, other) for one, other in pairs if isinstance(one, Tensor) and isinstance(other, Tensor)]
    return all(_near(one, other) for one, other in tensors if one.is_floating_point())


def _near(one: Tensor, other: Tensor) -> bool:
    allowed = max(TOLERANCE, torch.finfo(one.dtype).eps ** 0.5)
    return one.shape == other.shape and not torch.dist(one.double(), other.double()) > allowed * one.double().norm()
