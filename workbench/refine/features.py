"""What the layers of a smaller model read, beside what those of the original read there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from workbench.graph.inputs import Inputs
from workbench.graph.masked import survivors
from workbench.graph.modules import safe
from workbench.graph.record import Record
from workbench.graph.survivors import Kept, compact
from workbench.graph.trace import ChannelGraph

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)

Run = tuple[dict[tuple[str, int], Tensor], list[Tensor]]  # features by layer and call; outputs


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
        self.calls = calls

    def original(self, model: nn.Module, inputs: Inputs) -> Run:
        """The features of the original, without what the smaller model lacks, and its outputs."""
        return self._run(model, inputs, compacted=True)

    def smaller(self, model: nn.Module, inputs: Inputs) -> Run:
        """The features of the smaller model, and its outputs."""
        return self._run(model, inputs, compacted=False)

    def _run(self, model: nn.Module, inputs: Inputs, compacted: bool) -> Run:
        with reads(model) as read:
            output = inputs(model)
        features = {}
        for name, kept in self.calls.items():
            if len(read.get(name, ())) == len(kept):  # else it is called by other ways than the layer's forward
                for number, (stay, value) in enumerate(zip(kept, read[name], strict=True)):
                    if stay is not None:
                        features[name, number] = compact(value, _on(value, stay)) if compacted else value
        return features, floats(output)

    @staticmethod
    def errors(wanted: Run, found: Run) -> tuple[Tensor, Tensor]:
        """The mean relative error of the outputs and of the features that have the same shape."""
        outputs = [squared_error(*pair) for pair in zip(wanted[1], found[1], strict=True)]
        pairs = [(wanted[0][place], value) for place, value in found[0].items() if place in wanted[0]]
        layers = [squared_error(*pair) for pair in pairs if pair[0].shape == pair[1].shape]
        output = torch.stack(outputs).mean()
        return output, torch.stack(layers).mean() if layers else torch.zeros_like(output)


def floats(output: Any) -> list[Tensor]:
    """The tensors among a model's outputs that can differ by a little."""
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _on(value: Tensor, kept: Kept) -> Kept:
    return {dim: places.to(value.device) for dim, places in kept.items()}


@contextmanager
def reads(model: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """The inputs of all convolutions and linear layers while a model runs, by name, one for each call."""
    found: dict[str, list[Tensor]] = {}

    def hook(name: str) -> Any:
        return lambda _module, given: found.setdefault(safe(name), []).append(given[0])

    handles = [m.register_forward_pre_hook(hook(n)) for n, m in model.named_modules() if isinstance(m, LAYERS)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def squared_error(wanted: Tensor, found: Tensor) -> Tensor:
    """Mean squared difference over the variance of what is wanted."""
    return _squares(wanted, found).mean()


def squared_errors(wanted: Tensor, found: Tensor, samples: int) -> Tensor:
    """The same for each sample, ``[samples]``; alike for all where the first dimension is not theirs."""
    squares = _squares(wanted, found)
    if squares.ndim and len(squares) == samples:
        return squares.flatten(1).mean(1) if squares.ndim > 1 else squares
    return squares.mean().expand(samples)


def _squares(wanted: Tensor, found: Tensor) -> Tensor:
    wanted = wanted.to(found.dtype)
    scale = wanted.var(correction=0).clamp_min(torch.finfo(found.dtype).tiny)
    return (found - wanted).square() / scale
