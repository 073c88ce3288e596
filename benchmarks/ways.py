"""Ways to make a network of the zoo smaller, each behind ``smaller(target, method, repair)``: ours and the peers'.

All see the same 1,024 calibration images. Peers that take labels get the true ones.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, partial

import torch
import torch.nn.functional as F
from peers import Aimet, TorchPruning, recalibrated
from torch import Tensor, nn

import workbench as wb
from workbench.apply import apply
from workbench.calibrate import Statistics, calibrate
from workbench.cost.count import count
from workbench.methods import CHANNELS
from workbench.plan import Plan
from workbench.reconstruct import FOLD, RIDGES
from workbench.select import Criterion, GroupView, by_name
from workbench.zoo import task

OURS = "elimination"
NONE, NORMS, BIAS, SQUARES, REFINED = "none", "BN recalibration", "bias folding", "least squares", "refined"
REPAIRS = (NONE, NORMS, BIAS, SQUARES, REFINED)

RANKS = {
    "spatial SVD": wb.Methods.of("spatial_svd"),
    "weight SVD": wb.Methods.of("weight_svd"),
    "channels and ranks": wb.Methods(),
}


class Workbench:
    """The widths of one search, at which every criterion chooses the units that stay."""

    def __init__(self, network: str, seed: int):
        self.study = task.study(network, seed=seed, methods=CHANNELS)
        self.seed = seed

    @cached_property
    def statistics(self) -> Statistics:
        """With what every criterion needs."""
        needs = {"signals", "gradients"}
        return calibrate(self.study.graph, self.study.calibration, needs=needs, seed=self.seed)

    def smaller(self, target: float, method: str, repair: str) -> nn.Module:
        """The network at the widths of the search, with units chosen by this criterion."""
        plan = self.study.allocate(wb.Budget(macs=target), mode="measured")
        if method != OURS:
            plan = self._chosen(plan, by_name(method))
        ridges = {BIAS: (FOLD,), SQUARES: RIDGES, REFINED: RIDGES}.get(repair, ())
        refine = wb.Refinement() if repair == REFINED else None
        small = apply(
            self.study.graph, plan, self.study.calibration, refinement=refine, ridges=ridges, seed=self.seed
        ).model  # fmt: skip
        return _recalibrated(small) if repair == NORMS else small

    def _chosen(self, plan: Plan, criterion: Criterion) -> Plan:
        graph = self.study.graph
        kept = {
            name: criterion(GroupView.of(graph, name, self.statistics)).kept(len(units))
            for name, units in plan.kept.items()
        }
        return replace(plan, kept=kept)


class Ranks:
    """Lower ranks, alone or in one search with channels."""

    METHODS = (*RANKS,)

    def __init__(self, network: str, seed: int):
        self.studies = {name: task.study(network, seed=seed, methods=some) for name, some in RANKS.items()}
        self.seed = seed

    def smaller(self, target: float, method: str, repair: str) -> nn.Module:
        """By the plan of the search over these methods."""
        study = self.studies[method]
        plan = study.allocate(wb.Budget(macs=target))
        refine = wb.Refinement() if repair == REFINED else None
        return apply(study.graph, plan, study.calibration, refinement=refine, seed=self.seed).model


class Peers:
    """Torch-Pruning and AIMET on the same images, with the true labels."""

    def __init__(self, network: str, seed: int):
        model, (images, labels) = wb.zoo.load(network), wb.data.fashion_mnist("calibration")
        batches = list(zip(images.split(128), labels.split(128), strict=True))
        loss = partial(F.cross_entropy, reduction="sum")
        self.makers = {TorchPruning.METHODS: TorchPruning(model, batches, loss),
                       Aimet.METHODS: Aimet(model, batches, _search_accuracy, seed)}  # fmt: skip

    def smaller(self, target: float, method: str, repair: str) -> nn.Module:
        """By the peer whose method it is."""
        maker = next(maker for methods, maker in self.makers.items() if method in methods)
        small: nn.Module = maker.smaller(target, method)
        return _recalibrated(small) if repair == NORMS else small


def _recalibrated(model: nn.Module) -> nn.Module:
    return recalibrated(model, wb.data.fashion_mnist("calibration")[0].split(128))


@torch.no_grad()
def _search_accuracy(model: nn.Module) -> float:
    images, labels = wb.data.fashion_mnist("search")
    found = [model(some).argmax(1) for some in images.split(256)]
    return torch.cat(found).eq(labels).double().mean().item()


def accuracy_of(model: nn.Module) -> Tensor:
    """Which of the test images are right, bool ``[10000]``."""
    images, labels = wb.data.fashion_mnist("test")
    with torch.no_grad():
        return torch.cat([model.eval()(some).argmax(1) for some in images.split(500)]).eq(labels)


def macs_of(model: nn.Module) -> int:
    """Counted on the model as it is."""
    return count(model, wb.data.fashion_mnist("calibration")[0][:1]).macs
