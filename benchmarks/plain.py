"""The plain sweep: what a first script would do for every candidate, a channel group at a width."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LinearRegression
from torch import Tensor, nn

from workbench.calibrate import ROWS
from workbench.evaluation import whole_score
from workbench.repair import kept_columns
from workbench.study import Study


def plain_score(study: Study, group: str, kept: Sequence[int]) -> float:
    """The score of a copy of the model in which the readers of one group are fitted anew to the channels that stay."""
    model = copy.deepcopy(study.graph.model)
    for layer in study.graph.consumers[group]:
        name = layer.weight.rpartition(".")[0]
        inputs, outputs = gather(study, name)
        columns = kept_columns(study.graph, layer, {group: kept})
        module = model.get_submodule(name)
        fit = LinearRegression(fit_intercept=module.bias is not None).fit(inputs[:, columns], outputs)
        with torch.no_grad():
            module.weight.zero_()
            module.weight.flatten(1)[:, columns] = torch.from_numpy(fit.coef_).to(module.weight)
            if module.bias is not None:
                module.bias.copy_(torch.from_numpy(fit.intercept_))
    return float(whole_score(study.evaluate, model).mean())


def gather(study: Study, name: str) -> tuple[np.ndarray, np.ndarray]:
    """What a layer of the original reads and gives on the calibration data: rows of patches and of outputs."""
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    generator = torch.Generator().manual_seed(study.seed)
    per_sample = -(-ROWS // study.calibration.samples)

    def keep(module: nn.Module, given: tuple[Tensor], output: Tensor) -> None:
        if isinstance(module, nn.Linear):
            inputs.append(given[0])
            outputs.append(output)
            return
        places = torch.randperm(output[0, 0].numel(), generator=generator)[:per_sample]
        patches = F.unfold(given[0], module.kernel_size, module.dilation, module.padding, module.stride)
        inputs.append(patches[:, :, places].transpose(1, 2).flatten(0, 1))
        outputs.append(output.flatten(2)[:, :, places].transpose(1, 2).flatten(0, 1))

    handle = study.model.get_submodule(name).register_forward_hook(keep)
    with torch.no_grad():
        for batch in study.calibration:
            batch(study.model)
    handle.remove()
    return torch.cat(inputs).double().numpy(), torch.cat(outputs).double().numpy()
