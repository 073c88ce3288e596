"""What the search costs: Workbench's against the plain sweep, in CPU seconds of one thread, in the same run.

Ours is all from the dense model to the plan for half the MACs: ``measured`` scores every candidate, ``auto`` those
that the plan depends on, ``predicted`` none.

The plain sweep does for every candidate (a channel group at a width) what a first script would: copy the model, gather
the inputs and outputs of the layers that read the group anew, fit a linear regression on the channels that stay, and
score the whole network on all the search images. It is handed the channels that Workbench selected, so selection costs
it nothing. Both fit to the same number of rows.

python benchmarks/search.py [--network vgg] [--candidates 14] [--out search.json]
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LinearRegression
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from workbench import Budget
from workbench.calibrate import ROWS
from workbench.evaluation import whole_score
from workbench.repair import kept_columns
from workbench.study import Study
from workbench.zoo import task

NETWORKS = ("vgg", "resnet20")  # the plain sweep has no fit for depthwise convolutions


def measure(network: str, candidates: int, seed: int) -> dict[str, Any]:
    """Run our searches and a sample of the plain sweep, evenly drawn from the same candidates."""
    torch.set_num_threads(1)
    with threadpool_limits(1):
        ours = {mode: _ours(network, mode, seed) for mode in ("predicted", "auto", "measured")}
        study = task.study(network, seed=seed)
        curves = study.sensitivity("measured")
        swept = [(curve, point) for curve in curves for point in curve.points]
        drawn = np.unique(np.linspace(0, len(swept) - 1, min(candidates or len(swept), len(swept))).round().astype(int))
        start, within = time.process_time(), []
        for curve, point in (swept[index] for index in drawn):
            score = plain_score(study, curve.group, curve.path.kept(point.kept))
            loss = curves.baseline - score
            within.append((point.low or 0.0) <= loss <= (point.high or 0.0))
        measured = time.process_time() - start
    plain = measured * len(swept) / len(drawn)
    return {
        "benchmark": "search", "network": network, "seed": seed, "rows": ROWS, "candidates": len(swept),
        "ours": ours,
        "plain": {"cpu_seconds": round(plain, 2), "candidates_run": len(drawn), "cpu_seconds_run": round(measured, 2)},
        "ratio": {mode: round(plain / found["cpu_seconds"], 2) for mode, found in ours.items()},
        "plain_within_interval": float(np.mean(within)),
        "versions": {package: version(package) for package in ("workbench", "torch", "scikit-learn")},
    }  # fmt: skip


def _ours(network: str, mode: str, seed: int) -> dict[str, Any]:
    study = task.study(network, seed=seed)
    start = time.process_time()
    plan = study.allocate(Budget(macs=0.5), mode=mode)
    spent = time.process_time() - start
    samples = sum(point.samples for curve in study.sensitivity() for point in curve.points)
    return {"cpu_seconds": round(spent, 2), "scores": samples, "predicted_loss": plan.degradation}


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


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the JSON, and keep it where asked."""
    parser = argparse.ArgumentParser(description="CPU seconds of the search against the plain sweep, in the same run.")
    parser.add_argument("--network", choices=NETWORKS, default="vgg", help="which network (default vgg)")
    parser.add_argument("--candidates", type=int, default=14, help="how many the plain sweep runs before its time is "
                        "scaled up to all of them; 0 runs them all (default 14)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of the rows drawn from the calibration data (default 0)")
    parser.add_argument("--out", type=Path, help="write the JSON to this file, too")
    given = parser.parse_args(arguments)
    document = json.dumps(measure(given.network, given.candidates, given.seed), indent=1)
    if given.out:
        given.out.write_text(document + "\n")
    print(document)


if __name__ == "__main__":
    main()
