"""The names of AIMET's compression API (aimet_torch 2.42) over ``Study``: a script changes its imports.

No algorithm is here. What differs stands in ``docs/from-aimet.md``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from typing import Any

import torch
from torch import nn

from workbench.allocate.budget import Budget
from workbench.evaluation import whole_score
from workbench.graph.modes import evaluating
from workbench.graph.trace import ChannelGraph
from workbench.limits import Limits
from workbench.manual import Ratio, free_groups
from workbench.methods import CHANNELS, Methods
from workbench.result import Result
from workbench.study import Study

PER_IMAGE = 10  # reconstruction samples that AIMET takes from an image
ENOUGH = 512  # images that are read where there are as many

EvalCallback = Callable[..., float]


class CompressionScheme(Enum):
    """What is done to layers."""

    weight_svd = 1
    spatial_svd = 2
    channel_pruning = 3


class CostMetric(Enum):
    """What the target ratio is of: multiply-accumulates, or parameters."""

    mac = 1
    memory = 2


class RankSelectScheme(Enum):
    """How ranks are chosen; there is one way."""

    greedy = 1


@dataclass(frozen=True)
class ModuleCompRatioPair:
    """A layer of the model and its ratio: of input channels that stay, or with SVD of multiplications."""

    module: nn.Module
    comp_ratio: float


@dataclass(frozen=True)
class GreedySelectionParameters:
    """The target, as a share of the original's cost.

    The search picks its own points and always fits monotone curves, so ``num_comp_ratio_candidates`` is only checked
    and ``use_monotonic_fit`` changes nothing. Pickles are not read: ``store=`` of ``compress_model`` keeps scores.

    Raises
    ------
    ValueError
        The target is no share, there are fewer than two candidates, or a pickle is given.
    """

    target_comp_ratio: float
    num_comp_ratio_candidates: int = 10
    use_monotonic_fit: bool = False
    saved_eval_scores_dict: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.target_comp_ratio <= 1:
            raise ValueError(f"target_comp_ratio={self.target_comp_ratio!r} must be above 0 and at most 1")
        if self.num_comp_ratio_candidates < 2:
            raise ValueError(f"num_comp_ratio_candidates={self.num_comp_ratio_candidates!r} must be 2 or more")
        if self.saved_eval_scores_dict is not None:
            raise ValueError(
                f"saved_eval_scores_dict={self.saved_eval_scores_dict!r} is a pickle, which is not read; give store= "
                "to compress_model, which keeps every score"
            )


class _Mode(Enum):
    manual = 1
    auto = 2


@dataclass(frozen=True)
class _Manual:
    list_of_module_comp_ratio_pairs: Sequence[ModuleCompRatioPair]


@dataclass(frozen=True)
class _Auto:
    greedy_select_params: GreedySelectionParameters
    modules_to_ignore: Sequence[nn.Module] | None = None


@dataclass(frozen=True)
class _RankAuto:
    rank_select_scheme: RankSelectScheme
    select_params: GreedySelectionParameters
    modules_to_ignore: Sequence[nn.Module] | None = None

    @property
    def greedy_select_params(self) -> GreedySelectionParameters:
        return self.select_params


class _Parameters:
    """What the parameters of all schemes have, in whatever order each takes them, and what must fit together."""

    mode: _Mode
    params: _Auto | _RankAuto | _Manual
    multiplicity: int

    Mode, ManualModeParams = _Mode, _Manual

    def __post_init__(self) -> None:
        mode, given = self.mode, type(self.params).__name__
        if self.multiplicity < 1:
            raise ValueError(f"multiplicity={self.multiplicity!r} must be 1 or more")
        if isinstance(self.params, _Manual) != (mode is _Mode.manual):
            raise ValueError(f"the mode {mode.name} does not go with {given}; give those of that mode")


@dataclass(frozen=True)
class SpatialSvdParameters(_Parameters):
    """k_h x 1 and 1 x k_w instead of a convolution."""

    mode: _Mode
    params: _Auto | _Manual
    multiplicity: int = 1

    AutoModeParams = _Auto


@dataclass(frozen=True)
class WeightSvdParameters(_Parameters):
    """Two layers instead of a linear layer or a convolution."""

    mode: _Mode
    params: _RankAuto | _Manual
    multiplicity: int = 1

    AutoModeParams = _RankAuto


@dataclass(frozen=True)
class ChannelPruningParameters(_Parameters):
    """Channels leave. The loader yields ``(inputs, labels)``; with ``allow_custom_downsample_ops`` layers may pick."""

    data_loader: Iterable[Any]
    num_reconstruction_samples: int
    allow_custom_downsample_ops: bool
    mode: _Mode
    params: _Auto | _Manual
    multiplicity: int = 1

    AutoModeParams = _Auto


_SCHEMES: dict[CompressionScheme, tuple[type[_Parameters], Methods, str]] = {
    CompressionScheme.weight_svd:
        (WeightSvdParameters, Methods(channels=False, spatial_svd=False, tucker=False), "weight_svd"),
    CompressionScheme.spatial_svd:
        (SpatialSvdParameters, Methods(channels=False, weight_svd=False, tucker=False), "spatial_svd"),
    CompressionScheme.channel_pruning: (ChannelPruningParameters, CHANNELS, "channels"),
}  # fmt: skip


@dataclass(frozen=True)
class SelectionStats:
    """The scores that were measured: of a group or layer, by the share that was kept."""

    eval_scores_dictionary: Mapping[str, Mapping[Decimal, float]]


@dataclass(frozen=True)
class CompressionStats:
    """What came of it, counted on the model that came out; ``result`` reports, saves and exports it."""

    @dataclass(frozen=True)
    class LayerStats:
        """A layer and its cost, achieved / original."""

        name: str
        compression_ratio: float

    baseline_model_accuracy: str
    compressed_model_accuracy: str
    memory_compression_ratio: str
    mac_compression_ratio: str
    per_layer_stats: Sequence[LayerStats]
    compression_ratio_selection_stats: SelectionStats | None
    result: Result = field(repr=False)

    @classmethod
    def of(cls, result: Result, metric: CostMetric, accuracy: float) -> CompressionStats:
        """From a result, and what its model scores now."""
        cost = "macs" if metric is CostMetric.mac else "params"
        layers = [cls.LayerStats(row["layer"], row[cost][1] / row[cost][0]) for row in result.layers()]
        scores = {
            curve.group: {Decimal(str(point.share)): point.score for point in curve.points if point.score is not None}
            for curve in result.curves or ()
        }
        selection = SelectionStats(scores) if result.curves else None
        before, memory, macs = result.score.before, result.ratio["params"], result.ratio["macs"]
        return cls(f"{before:.6f}", f"{accuracy:.6f}", f"{memory:.6f}", f"{macs:.6f}", layers, selection, result)

    def __str__(self) -> str:
        lines = [
            "Compressed model",
            f"  accuracy before  {self.baseline_model_accuracy}",
            f"  accuracy after   {self.compressed_model_accuracy}",
            f"  memory ratio     {self.memory_compression_ratio}",
            f"  MAC ratio        {self.mac_compression_ratio}",
            "Layers (achieved ratio)",
            *(f"  {layer.name:30} {layer.compression_ratio:.3f}" for layer in self.per_layer_stats),
        ]
        return "\n".join(lines)


class ModelCompressor:
    """AIMET's entry point."""

    @staticmethod
    def compress_model(
        model: nn.Module, eval_callback: EvalCallback, eval_iterations: int | None,
        input_shape: Sequence[int] | Sequence[Sequence[int]], compress_scheme: CompressionScheme,
        cost_metric: CostMetric, parameters: _Parameters, trainer: Any = None, visualization_url: str | None = None, *,
        calibration: Iterable[Any] | None = None, **options: Any,
    ) -> tuple[nn.Module, CompressionStats]:  # fmt: skip
        """The smaller model and its statistics; the caller's model stays as it is, its modes, too.

        Parameters
        ----------
        eval_callback : ``eval_callback(model, iterations, use_cuda=...)``, higher is better; iterations are
            ``eval_iterations`` in the search and None in the statistics
        input_shape : with the batch, as a tuple or a list; of several inputs, a list of those
        trainer : ``train_model(model, layer, train_flag=True)``, called once at the end with the whole smaller model in
            training mode, and None for the layer: all layers are repaired together before
        visualization_url : None; ``stats.result.report(path)`` writes a page
        calibration : model inputs; by default those of the loader, without one uniform numbers of ``input_shape``
        options : those of ``Study``, as ``store=`` or ``refinement=None``

        Raises
        ------
        ValueError
            What is asked for does not fit together, or a layer cannot have its ratio.
        Unreachable
            No plan meets the target.
        """
        kind, methods, method = _SCHEMES[compress_scheme]
        if not isinstance(parameters, kind):
            given = type(parameters).__name__
            raise ValueError(f"{compress_scheme.name} takes {kind.__name__}, not {given}; give the ones of the scheme")
        if visualization_url is not None:
            raise ValueError(
                f"visualization_url={visualization_url!r}: there is no server; leave it out and write a page with "
                "stats.result.report(path)"
            )
        cuda = any(parameter.is_cuda for parameter in model.parameters())
        test = _Score(eval_callback, None, cuda)
        study = Study(
            model, _drawn(model, input_shape, 2), evaluate=_Score(eval_callback, eval_iterations, cuda), test=test,
            calibration=calibration if calibration is not None else _calibration(model, parameters, input_shape),
            methods=methods,
            gather=isinstance(parameters, ChannelPruningParameters) and parameters.allow_custom_downsample_ops,
            **options,
        )  # fmt: skip
        if methods is not CHANNELS:
            study.ignore = _ignored(study.graph, parameters)  # only the graph knows which of them are layers
        result = _compressed(study, parameters, method, cost_metric)
        accuracy = result.score.after
        if trainer is not None:
            with evaluating(result.model):
                trainer.train_model(result.model.train(), None, train_flag=True)
            accuracy = float(whole_score(test, result.model, "compressed").mean())
        return result.model, CompressionStats.of(result, cost_metric, accuracy)


@dataclass(frozen=True)
class _Score:
    callback: EvalCallback
    iterations: int | None
    cuda: bool

    def __call__(self, model: nn.Module) -> float:
        return float(self.callback(model, self.iterations, use_cuda=self.cuda))


def _compressed(study: Study, parameters: _Parameters, method: str, metric: CostMetric) -> Result:
    multiple, params = parameters.multiplicity, parameters.params
    if isinstance(params, _Manual):
        if metric is CostMetric.memory and method != "channels":
            raise ValueError("manual ratios of ranks are of multiplications; give CostMetric.mac, or study.by_hand")
        pairs = params.list_of_module_comp_ratio_pairs
        names = _names(study.model, [pair.module for pair in pairs])
        if twice := [name for name, times in Counter(names).items() if times > 1]:
            raise ValueError(f"the module {twice[0]} is in {names.count(twice[0])} pairs; give each module one ratio")
        ratios = [Ratio(pair.comp_ratio, method, multiple, "up") for pair in pairs]
        return study.compress(study.by_hand(dict(zip(names, ratios, strict=True))))
    target = params.greedy_select_params.target_comp_ratio
    budget = Budget(**{"macs" if metric is CostMetric.mac else "params": target}, multiple=multiple)
    limits = Limits()
    if method == "channels":  # an ignored layer reads what it did; what it makes may leave, as with AIMET
        graph = study.graph
        layers, free = set(_ignored(graph, parameters)), free_groups(graph, ())
        limits = Limits(keep=tuple(
            name for name in free if layers & {reader.name for reader in graph.consumers[name]}
        ))  # fmt: skip
    return study.compress(budget, limits=limits)


def _ignored(graph: ChannelGraph, parameters: _Parameters) -> list[str]:
    """The layers among the modules that are to be ignored, and inside them; of a BN or a ReLU there is nothing to."""
    params = parameters.params
    modules = () if isinstance(params, _Manual) else params.modules_to_ignore or ()
    inside = _names(graph.model, [inner for module in modules for inner in module.modules()])
    return list(dict.fromkeys(layer.name for layer in graph.layers if layer.name in inside))


def _names(model: nn.Module, modules: Sequence[nn.Module]) -> list[str]:
    known = {module: name for name, module in model.named_modules()}
    for module in modules:
        if module not in known:
            raise ValueError(f"{module} is no module of this {type(model).__name__}; give the model's own")
    return [known[module] for module in modules]


def _calibration(model: nn.Module, parameters: _Parameters, shape: Any) -> list[Any]:
    if not isinstance(parameters, ChannelPruningParameters):
        return [_drawn(model, shape, ENOUGH // 8, part) for part in range(8)]
    wanted = max(ENOUGH, math.ceil(parameters.num_reconstruction_samples / PER_IMAGE))
    found: list[Any] = []
    for batch in parameters.data_loader:
        if not isinstance(batch, tuple | list) or len(batch) < 2:
            raise ValueError(f"the data_loader yields a {type(batch).__name__}; let it yield (inputs, labels)")
        found.append(batch[0])
        if sum(map(len, found)) >= wanted:
            break
    return found


def _drawn(model: nn.Module, shape: Any, samples: int, seed: int = 0) -> Any:
    """Uniform in [0, 1), whatever batch the shape has, as precise as the model's parameters."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
    generator = torch.Generator().manual_seed(seed)
    shapes = shape if isinstance(shape[0], Sequence) else [shape]
    return tuple(torch.rand(samples, *one[1:], generator=generator, dtype=dtype) for one in shapes)
