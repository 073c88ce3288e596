"""Ways to make a network of the zoo smaller, each behind ``smaller(target, method, repair)``: ours and the peers'.

All see the same 1,024 calibration images. Peers that take labels get the true ones.
"""

from __future__ import annotations

import copy
import logging
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager, redirect_stdout
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import workbench as wb
from workbench.apply import apply
from workbench.calibrate import Statistics, calibrate
from workbench.cost.count import count
from workbench.plan import Plan
from workbench.reconstruct import FOLD, RIDGES
from workbench.select import (
    L1,
    L2,
    ActivationEnergy,
    ActivePositions,
    Criterion,
    Elimination,
    Fisher,
    GeometricMedian,
    GroupView,
    Lasso,
    Random,
    Slimming,
    Taylor,
)  # fmt: skip
from workbench.zoo import task

OURS = "elimination path"
CRITERIA: dict[str, Criterion] = {
    OURS: Elimination(), "LASSO": Lasso(), "Fisher": Fisher(), "Taylor": Taylor(),
    "activation energy": ActivationEnergy(), "APoZ": ActivePositions(), "BN scale": Slimming(),
    "geometric median": GeometricMedian(), "L2": L2(), "L1": L1(), "random": Random(),
}  # fmt: skip
NONE, NORMS, BIAS, SQUARES, REFINED = "none", "BN recalibration", "bias folding", "least squares", "refined"
REPAIRS = (NONE, NORMS, BIAS, SQUARES, REFINED)
NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Workbench:
    """The widths of one search, at which every criterion chooses the units that stay."""

    def __init__(self, network: str, seed: int):
        self.study = task.study(network, seed=seed)
        self.seed = seed

    @cached_property
    def statistics(self) -> Statistics:
        """With what every criterion needs."""
        needs = {"signals", "gradients"}
        return calibrate(self.study.graph, self.study.calibration, needs=needs, seed=self.seed)

    def smaller(self, target: float, method: str, repair: str) -> nn.Module:
        """The network at the widths of the search, with units chosen by this criterion."""
        plan = self.study.allocate(wb.Budget(macs=target))
        if method != OURS:
            plan = self._chosen(plan, CRITERIA[method])
        ridges = {BIAS: (FOLD,), SQUARES: RIDGES, REFINED: RIDGES}.get(repair, ())
        refine = wb.Refinement() if repair == REFINED else None
        small = apply(
            self.study.graph, plan, self.study.calibration, refine=refine, ridges=ridges, seed=self.seed
        ).model  # fmt: skip
        return recalibrated(small) if repair == NORMS else small

    def _chosen(self, plan: Plan, criterion: Criterion) -> Plan:
        graph = self.study.graph
        kept = {
            name: criterion(GroupView.of(graph, name, self.statistics)).kept(len(units))
            for name, units in plan.kept.items()
        }
        return replace(plan, kept=kept)


class TorchPruning:
    """Torch-Pruning's own pruners, at the largest share of the channels that meets the target."""

    METHODS = ("Torch-Pruning L2, global", "Torch-Pruning L1, local", "Torch-Pruning Taylor, global",
               "Torch-Pruning Taylor, local")  # fmt: skip
    STEPS = 8

    def __init__(self, network: str, seed: int):
        self.model, self.seed = wb.zoo.load(network), seed
        self.images, self.labels = wb.data.fashion_mnist("calibration")

    def smaller(self, target: float, method: str, repair: str) -> nn.Module:
        """Bisects the pruning ratio."""
        budget, best = target * count(self.model, self.images[:1]).macs, None
        low, high = 0.0, 1.0
        for _ in range(self.STEPS):
            middle = (low + high) / 2
            small = self._pruned(middle, method)
            fits = small is not None and count(small, self.images[:1]).macs <= budget
            low, high = (low, middle) if fits else (middle, high)
            best = small if fits else best
        if best is None:
            raise RuntimeError(f"no ratio of {self.STEPS} bisected ones gives {target:.0%} of the MACs")
        return recalibrated(best) if repair == NORMS else best

    def _pruned(self, ratio: float, method: str) -> nn.Module | None:
        import torch_pruning as tp

        model, example = copy.deepcopy(self.model), self.images[:1]
        score = tp.importance.TaylorImportance() if "Taylor" in method else tp.importance.MagnitudeImportance(
            p=1 if "L1" in method else 2
        )  # fmt: skip
        last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        heads = {module.qkv: module.heads for module in model.modules() if hasattr(module, "qkv")}
        pruner = tp.pruner.MagnitudePruner(
            model, example, importance=score, pruning_ratio=ratio, max_pruning_ratio=0.95,
            global_pruning="global" in method, ignored_layers=[last], num_heads=heads,
        )  # fmt: skip
        if "Taylor" in method:
            with torch.enable_grad():
                for images, labels in zip(self.images.split(128), self.labels.split(128), strict=True):
                    F.cross_entropy(model(images), labels, reduction="sum").backward()
        pruner.step()
        model.zero_grad(set_to_none=True)
        return model


class Aimet:
    """AIMET's greedy search over ten ratios by the accuracy on the search images; the MACs are what it delivers."""

    METHODS = ("AIMET channel pruning", "AIMET spatial SVD")

    def __init__(self, network: str, seed: int):
        self.model, self.seed = wb.zoo.load(network), seed
        self.images, self.labels = wb.data.fashion_mnist("calibration")

    def smaller(self, target: float, method: str, repair: str) -> nn.Module:
        """One run of its compressor; its first layer is left out of channel pruning, as it asks for."""
        from decimal import Decimal

        from aimet_torch.common.defs import CompressionScheme, CostMetric, GreedySelectionParameters
        from aimet_torch.compress import ModelCompressor
        from aimet_torch.defs import ChannelPruningParameters, SpatialSvdParameters

        torch.manual_seed(self.seed)
        random.seed(self.seed)
        greedy = GreedySelectionParameters(target_comp_ratio=Decimal(str(target)), num_comp_ratio_candidates=10)
        first = next(module for module in self.model.modules() if isinstance(module, nn.Conv2d))
        if method == "AIMET channel pruning":
            scheme, kind = CompressionScheme.channel_pruning, ChannelPruningParameters
            loader = torch.utils.data.DataLoader(
                torch.utils.data.TensorDataset(self.images, self.labels), batch_size=128
            )  # fmt: skip
            auto = kind.AutoModeParams(greedy, modules_to_ignore=[first])
            parameters = kind(loader, len(self.images), True, kind.Mode.auto, auto)
        else:
            scheme, kind = CompressionScheme.spatial_svd, SpatialSvdParameters
            parameters = kind(kind.Mode.auto, kind.AutoModeParams(greedy))
        with _aside():
            small, _ = ModelCompressor.compress_model(
                self.model, eval_callback=self._accuracy, eval_iterations=None, input_shape=(1, *self.images.shape[1:]),
                compress_scheme=scheme, cost_metric=CostMetric.mac, parameters=parameters,
            )  # fmt: skip
        return small

    @torch.no_grad()
    def _accuracy(self, model: nn.Module, *_: Any, **__: Any) -> float:
        images, labels = wb.data.fashion_mnist("search")
        model.eval()
        found = [model(some).argmax(1) for some in images.split(256)]
        return torch.cat(found).eq(labels).double().mean().item()


@contextmanager
def _aside() -> Iterator[None]:
    """AIMET tells of each candidate and writes pickles into the folder where it runs."""
    with tempfile.TemporaryDirectory() as folder, chdir(folder), redirect_stdout(None):
        Path("data").mkdir()
        logging.disable(logging.INFO)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def recalibrated(model: nn.Module) -> nn.Module:
    """The statistics of each BN anew, as means over the batches of calibration images."""
    images, _ = wb.data.fashion_mnist("calibration")
    norms = [module for module in model.modules() if isinstance(module, NORM)]
    if not norms:
        raise TypeError("there is no BN")
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    with torch.no_grad():
        for some in images.split(128):
            model(some)
    return model.eval()


Way = Callable[[str, int], Any]
WAYS: dict[str, tuple[Way, Sequence[str]]] = {
    "workbench": (Workbench, tuple(CRITERIA)),
    "torch_pruning": (TorchPruning, TorchPruning.METHODS),
    "aimet": (Aimet, Aimet.METHODS),
}


def way_of(method: str) -> Way:
    """Whose method it is."""
    return next(way for way, methods in WAYS.values() if method in methods)


def accuracy_of(model: nn.Module) -> Tensor:
    """Which of the test images are right, bool ``[10000]``."""
    images, labels = wb.data.fashion_mnist("test")
    with torch.no_grad():
        return torch.cat([model.eval()(some).argmax(1) for some in images.split(500)]).eq(labels)


def macs_of(model: nn.Module) -> int:
    """Counted on the model as it is."""
    return count(model, wb.data.fashion_mnist("calibration")[0][:1]).macs
