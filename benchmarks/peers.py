"""Other people's compressors, given the calibration data and, where they ask for them, the labels."""

from __future__ import annotations

import copy
import logging
import random
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import chdir, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from workbench.cost.count import count

Loss = Callable[[Any, Any], Tensor]
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class TorchPruning:
    """Torch-Pruning's own pruners, at the largest share of the channels that meets the target.

    ``batches`` are pairs of inputs and labels; ``loss(output, labels)`` is for its Taylor criterion.
    """

    model: nn.Module
    batches: Sequence[tuple[Tensor, Any]]
    loss: Loss | None = None

    METHODS = ("Torch-Pruning L2, global", "Torch-Pruning L1, local", "Torch-Pruning Taylor, global",
               "Torch-Pruning Taylor, local")  # fmt: skip
    STEPS = 8

    def smaller(self, target: float, method: str) -> nn.Module:
        """Bisects the pruning ratio."""
        example = self.batches[0][0][:1]
        budget, best = target * count(self.model, example).macs, None
        low, high = 0.0, 1.0
        for _ in range(self.STEPS):
            middle = (low + high) / 2
            small = self.pruned(middle, method)
            fits = count(small, example).macs <= budget
            low, high = (low, middle) if fits else (middle, high)
            best = small if fits else best
        if best is None:
            raise RuntimeError(f"no ratio of {self.STEPS} bisected ones gives {target:.0%} of the MACs")
        return best

    def pruned(self, ratio: float, method: str) -> nn.Module:
        """At one ratio; the last layer's outputs and recurrent layers are left out, and none loses more than 95 %."""
        import torch_pruning as tp

        model = copy.deepcopy(self.model)
        score = tp.importance.TaylorImportance() if "Taylor" in method else tp.importance.MagnitudeImportance(
            p=1 if "L1" in method else 2
        )  # fmt: skip
        last = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
        recurrent = [module for module in model.modules() if isinstance(module, nn.RNNBase)]
        heads = {module.qkv: module.heads for module in model.modules() if hasattr(module, "qkv")}
        pruner = tp.pruner.MagnitudePruner(
            model, self.batches[0][0][:1], importance=score, pruning_ratio=ratio, max_pruning_ratio=0.95,
            global_pruning="global" in method, ignored_layers=[last, *recurrent], num_heads=heads,
        )  # fmt: skip
        if "Taylor" in method:
            assert self.loss is not None
            with torch.enable_grad():
                for inputs, labels in self.batches:
                    self.loss(model(inputs), labels).backward()
        pruner.step()
        model.zero_grad(set_to_none=True)
        return model


@dataclass(frozen=True)
class Aimet:
    """AIMET's greedy search over ten ratios by ``score(model)``; the MACs are what it delivers."""

    model: nn.Module
    batches: Sequence[tuple[Tensor, Tensor]]
    score: Callable[[nn.Module], float]
    seed: int = 0

    METHODS = ("AIMET channel pruning", "AIMET spatial SVD")

    def smaller(self, target: float, method: str) -> nn.Module:
        """One run of its compressor; the first layer is left out of channel pruning, as it asks for."""
        return self.timed(target, method)[0]

    def timed(self, target: float, method: str) -> tuple[nn.Module, float]:
        """The same, with the process time at which its search had found the ratios."""
        from decimal import Decimal

        from aimet_torch.common.comp_ratio_select import GreedyCompRatioSelectAlgo
        from aimet_torch.common.defs import CompressionScheme, CostMetric, GreedySelectionParameters
        from aimet_torch.compress import ModelCompressor
        from aimet_torch.defs import ChannelPruningParameters, SpatialSvdParameters

        torch.manual_seed(self.seed)
        random.seed(self.seed)
        samples = sum(len(inputs) for inputs, _ in self.batches)
        greedy = GreedySelectionParameters(target_comp_ratio=Decimal(str(target)), num_comp_ratio_candidates=10)
        if method == "AIMET channel pruning":
            first = next(module for module in self.model.modules() if isinstance(module, nn.Conv2d))
            scheme, kind = CompressionScheme.channel_pruning, ChannelPruningParameters
            auto = kind.AutoModeParams(greedy, modules_to_ignore=[first])
            parameters = kind(self._loader(), samples, True, kind.Mode.auto, auto)
        else:
            scheme, kind = CompressionScheme.spatial_svd, SpatialSvdParameters
            parameters = kind(kind.Mode.auto, kind.AutoModeParams(greedy))
        found: list[float] = []
        select = GreedyCompRatioSelectAlgo.select_per_layer_comp_ratios

        def selected(algorithm: Any) -> Any:
            ratios = select(algorithm)
            found.append(time.process_time())
            return ratios

        with _aside(), mock.patch.object(GreedyCompRatioSelectAlgo, select.__name__, selected):
            small: nn.Module = ModelCompressor.compress_model(
                self.model, eval_callback=lambda model, *_, **__: self.score(model.eval()), eval_iterations=None,
                input_shape=(1, *self.batches[0][0].shape[1:]), compress_scheme=scheme, cost_metric=CostMetric.mac,
                parameters=parameters,
            )[0]  # fmt: skip
        return small, found[0]

    def _loader(self) -> DataLoader[Any]:
        inputs, labels = (torch.cat(parts) for parts in zip(*self.batches, strict=True))
        return DataLoader(TensorDataset(inputs, labels), batch_size=len(self.batches[0][0]))


@contextmanager
def _aside() -> Iterator[None]:
    """AIMET tells of each candidate and writes pickles into the folder where it runs."""
    with tempfile.TemporaryDirectory() as folder, chdir(folder), redirect_stdout(None), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Path("data").mkdir()
        logging.disable(logging.INFO)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


@torch.no_grad()
def recalibrated(model: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """The statistics of each BN anew, as means over batches of inputs; changes the model in place.

    Raises
    ------
    TypeError
        There is no BN.
    """
    norms = [module for module in model.modules() if isinstance(module, NORMS)]
    if not norms:
        raise TypeError("there is no BN")
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    for inputs in batches:
        model(inputs)
    return model.eval()
