"""``.pt2``: PyTorch's own exported program, which needs no class and no workbench to run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from workbench.deploy.export import Exported, checked, tensors_in, whole_files
from workbench.graph.exporting import exported, is_free
from workbench.graph.inputs import Inputs


def export_program(model: nn.Module, example_inputs: Any, path: str | os.PathLike[str]) -> Exported:
    """Write a model as an exported program; ``torch.export.load(path).module()`` runs it anywhere.

    Parameters
    ----------
    model : any module, also a winnowed one; it is exported in eval mode and left as it was
    example_inputs : a tensor (the one input), a tuple (positional) or a dict (keyword); batch first
    path : the file, customarily ``.pt2``; it appears whole or not at all

    Raises
    ------
    Refused
        ``torch.export`` cannot follow the model, or what was written computes something else.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "small.pt2"
    >>> export_program(nn.Linear(3, 2), torch.randn(1, 3), file).any_batch
    True
    >>> torch.export.load(file).module()(torch.randn(5, 3)).shape
    torch.Size([5, 2])
    """
    inputs, target = Inputs.of(example_inputs).take(2), Path(path)
    program = exported(model, inputs)
    with whole_files(target) as beside:
        torch.export.save(program, beside)
        loaded = torch.export.load(beside).module()
        worst, batches = checked(
            model, inputs, lambda some: tensors_in(loaded(*some.args, **some.kwargs)), is_free(program), ".pt2"
        )
    return Exported(target, worst, is_free(program), batches)
