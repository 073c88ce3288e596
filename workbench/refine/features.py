"""What the layers of a smaller model read, beside what those of the original read there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from workbench.graph.inputs import Inputs, read_by
from workbench.graph.masked import survivors
from workbench.graph.modules import safe
from workbench.graph.record import Record
from workbench.graph.survivors import Kept, compact
from workbench.graph.trace import ChannelGraph

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)

Run = tuple[dict[tuple[str, int], Tensor], list[Tensor]]  # features by layer and call; outputs
Scales = tuple[dict[tuple[str, int], float], list[float]]  # variances of the same


class Features:
    """Pairs the values that both models compute: the inputs of layers, which leave out what no layer reads.

    What a layer reads lies behind the activation: a difference that a ReLU cuts off does not count.
    """

    def __init__(self, graph: ChannelGraph, record: Record):
        stays = survivors(graph.provenance, record.cuts)
        computed = {node.name for node in graph.program.nodes}
        calls: dict[str, list[Kept | None]] = {}
        seen: set[str] = set()
        for layer in graph.layers:
            new = layer.source in computed and layer.source not in seen
            calls.setdefault(safe(layer.name), []).append(stays.of(layer.source) if new else None)
            seen.add(layer.source)
        self.calls, self.factored = calls, {safe(factored.layer) for factored in record.factors}

    def original(self, model: nn.Module, inputs: Inputs) -> Run:
        """The features of the original, without what the smaller model lacks, and its outputs."""
        return self._run(model, inputs, compacted=True)

    def smaller(self, model: nn.Module, inputs: Inputs) -> Run:
        """The features of the smaller model, and its outputs."""
        return self._run(model, inputs, compacted=False)

    def _run(self, model: nn.Module, inputs: Inputs, compacted: bool) -> Run:
        with reads(model, () if compacted else self.factored) as read:
            output = inputs(model)
        features = {}
        for name, kept in self.calls.items():
            if len(read.get(name, ())) == len(kept):  # else it is called by other ways than the layer's forward
                for number, (stay, value) in enumerate(zip(kept, read[name], strict=True)):
                    if stay is not None:
                        features[name, number] = compact(value, _on(value, stay)) if compacted else value
        return features, floats(output)

    @staticmethod
    def errors(wanted: Run, found: Run, scales: Scales) -> tuple[Tensor, Tensor]:
        """The mean error of the outputs, and of the features that have the same shape, in terms of their variances."""
        outputs = [_mean_error(*given) for given in zip(wanted[1], found[1], scales[1], strict=True)]
        places = [at for at, value in found[0].items() if at in wanted[0] and wanted[0][at].shape == value.shape]
        layers = [_mean_error(wanted[0][at], found[0][at], scales[0][at]) for at in places]
        output = torch.stack(outputs).mean()
        return output, torch.stack(layers).mean() if layers else torch.zeros_like(output)


def scales_of(runs: Iterable[Run]) -> Scales:
    """The variance of each feature and output over several runs of the original."""
    features: dict[tuple[str, int], _Variance] = {}
    outputs: dict[int, _Variance] = {}
    for read, given in runs:
        for place, value in read.items():
            features.setdefault(place, _Variance()).add(value)
        for number, value in enumerate(given):
            outputs.setdefault(number, _Variance()).add(value)
    return {place: some.value for place, some in features.items()}, [some.value for some in outputs.values()]


@dataclass
class _Variance:
    """Of numbers that come in parts (Chan et al. 1979)."""

    count: int = 0
    mean: float = 0.0
    value: float = 0.0

    def add(self, values: Tensor) -> None:
        mean = values.mean().item()
        wide = torch.promote_types(values.dtype, torch.float32)
        distance = torch.linalg.vector_norm(values - mean, dtype=wide).item()  # nine times as fast as torch.var
        value = distance**2 / values.numel()
        share = values.numel() / (self.count + values.numel())
        apart = mean - self.mean
        self.value += share * (value - self.value) + share * (1 - share) * apart**2
        self.mean += share * apart
        self.count += values.numel()


def floats(output: Any) -> list[Tensor]:
    """The tensors among a model's outputs that can differ by a little."""
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _on(value: Tensor, kept: Kept) -> Kept:
    return {dim: places.to(value.device) for dim, places in kept.items()}


@contextmanager
def reads(model: nn.Module, also: Collection[str] = ()) -> Iterator[dict[str, list[Tensor]]]:
    """The inputs of all convolutions, linear layers and some others while a model runs, by name, one for each call."""
    found: dict[str, list[Tensor]] = {}

    def hook(name: str) -> Any:
        def watch(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found.setdefault(safe(name), []).append(read_by(args, kwargs))

        return watch

    watched = [(n, m) for n, m in model.named_modules() if isinstance(m, LAYERS) or safe(n) in also]
    handles = [m.register_forward_pre_hook(hook(n), with_kwargs=True) for n, m in watched]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def squared_errors(wanted: Tensor, found: Tensor, samples: int) -> Tensor:
    """Mean squared difference over the variance of what is wanted, of each sample, ``[samples]``.

    Alike for all where the first dimension is not theirs.
    """
    squares = (found - wanted.to(found.dtype)).square() / _positive(wanted.var(correction=0).item(), found)
    if squares.ndim and len(squares) == samples:
        return squares.flatten(1).mean(1) if squares.ndim > 1 else squares
    return squares.mean().expand(samples)


def _mean_error(wanted: Tensor, found: Tensor, scale: float) -> Tensor:
    return F.mse_loss(found, wanted.to(found.dtype)) / _positive(scale, found)


def _positive(scale: float, like: Tensor) -> float:
    return max(scale, torch.finfo(like.dtype).tiny)
