"""The eigenbasis of what each layer of a model reads."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from workbench.graph.gather import Gathered
from workbench.graph.inputs import Inputs
from workbench.graph.modules import safe
from workbench.patches import Patches
from workbench.refine.features import reads

WIDEST = 1024  # columns in one basis: a wider layer is cut into blocks, since a decomposition costs their cube
SAMPLES = 256
PLACES = 16  # of each sample

Bases = tuple[Tensor, ...]  # [groups, width, width], one a block of columns


@torch.no_grad()
def input_bases(model: nn.Module, batches: Iterable[Inputs], generator: torch.Generator) -> dict[nn.Parameter, Bases]:
    """For the weight of each convolution and linear layer, the bases found on the first samples."""
    modules = {safe(name): module for name, module in model.named_modules()}
    rows: dict[str, list[Tensor]] = {}
    samples = 0
    for inputs in batches:
        with reads(model) as read:
            inputs(model)
        for name, values in read.items():
            rows.setdefault(name, []).extend(_rows(modules[name], value, generator) for value in values)
        samples += inputs.batch or 1
        if samples >= SAMPLES:
            break
    weights = {name: modules[name].weight for name in rows}
    return {w: _bases(torch.cat(rows[name], 1)) for name, w in weights.items() if isinstance(w, nn.Parameter)}


def _rows(module: nn.Module, value: Tensor, generator: torch.Generator) -> Tensor:
    value = module.picked(value) if isinstance(module, Gathered) else value
    patches = Patches.of_module(module)  # type: ignore[arg-type]  # one of those that are recorded
    places = torch.randperm(patches.places(value), generator=generator)[:PLACES]
    return patches.rows(value, places)


def _bases(rows: Tensor) -> Bases:
    blocks = rows.double().tensor_split(-(-rows.shape[-1] // WIDEST), -1)
    return tuple(_eigenvectors(block.mT @ block).to(rows) for block in blocks)


def _eigenvectors(matrices: Tensor) -> Tensor:
    """Of symmetric matrices ``[groups, width, width]``."""
    try:
        return torch.linalg.eigh(matrices).eigenvectors
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # QR iteration converges where that does not
        from scipy.linalg import eigh

        return torch.stack([torch.from_numpy(eigh(one, driver="ev")[1]) for one in matrices.cpu().numpy()])
