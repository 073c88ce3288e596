"""The rows that a layer multiplies by its weight: unfolded patches of a convolution, features of a linear layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.graph.call import bind, op_name
from workbench.graph.program import Program
from workbench.graph.trace import Layer


@dataclass(frozen=True)
class Patches:
    """How one layer reads its input: ``rows`` unfolds the input, ``targets`` takes the output at the same places.

    A layer with g groups has g blocks of ``columns`` columns; column ``c * k + j`` is kernel place j of channel c.
    """

    kernel: tuple[int, ...]  # empty for a linear layer
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]  # before and after
    dilation: tuple[int, ...]
    groups: int
    input: str  # the node whose value the layer reads
    target: str = ""  # the node whose value is fitted: what the layer makes
    apart: tuple[int, ...] = ()  # from one input to the next, with zeros between: of a transposed convolution

    @classmethod
    def of(cls, layer: Layer, program: Program) -> Patches:
        """Read from the node of a layer."""
        node = next(node for node in program.nodes if node.name == layer.node)
        arguments = bind(node, node.args, node.kwargs)
        kernel = tuple(layer.shape[2:])
        if op_name(node) == "linear" or layer.product:
            return cls((), (), (), (), 1, layer.source, layer.node)
        rank = len(kernel)
        if layer.transposed:
            return cls._of_transposed(layer, kernel, arguments)
        return cls(
            kernel, _each(arguments["stride"], rank), _padding(arguments, kernel), _each(arguments["dilation"], rank),
            arguments["groups"], layer.source, layer.node,
        )  # fmt: skip

    @classmethod
    def _of_transposed(cls, layer: Layer, kernel: tuple[int, ...], arguments: dict[str, Any]) -> Patches:
        """As the convolution over the input with zeros between; see ``Layer.turned``."""
        rank = len(kernel)
        stride, padding, more, dilation = (
            _each(arguments[name], rank) for name in ("stride", "padding", "output_padding", "dilation")
        )
        reach = [gap * (size - 1) - pad for gap, size, pad in zip(dilation, kernel, padding, strict=True)]
        sides = tuple((before, before + after) for before, after in zip(reach, more, strict=True))
        return cls(kernel, (1,) * rank, sides, dilation, layer.groups, layer.source, layer.node, stride)

    @classmethod
    def of_module(cls, module: nn.modules.conv._ConvNd | nn.Linear) -> Patches:
        """Read from a module; what pads other than zeros is taken to pad zeros."""
        if isinstance(module, nn.Linear):
            return cls((), (), (), (), 1, "")
        kernel = tuple(module.weight.shape[2:])
        padding = _padding({"padding": module.padding, "dilation": module.dilation}, kernel)
        return cls(kernel, module.stride, padding, module.dilation, module.groups, "")

    def places(self, inputs: Tensor) -> int:
        """How often the weight is applied to one sample."""
        if not self.kernel:
            return inputs[0].numel() // inputs.shape[-1]
        sides = zip(inputs.shape[2:], self.kernel, self.stride, self.padding, self.dilation, strict=True)
        return prod((size + sum(pad) - (kernel - 1) * gap - 1) // step + 1 for size, kernel, step, pad, gap in sides)

    def positions(self, output: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """At most ``count`` places of an output a sample, drawn without repeats, in order."""
        total = self._places(output).shape[1]
        if total <= count:
            return torch.arange(total)
        return torch.randperm(total, generator=generator)[:count].sort().values

    def rows(self, inputs: Tensor, positions: Tensor, columns: Sequence[int] | None = None) -> Tensor:
        """``[groups, samples * positions, columns]``; of some columns alone, which are whole channels."""
        if not self.kernel:
            drawn = inputs.reshape(len(inputs), -1, inputs.shape[-1])[:, positions].flatten(0, 1)[None]
            return drawn if columns is None else drawn.index_select(-1, torch.tensor(columns, device=drawn.device))
        if columns is not None:
            size = prod(self.kernel)
            channels = torch.tensor(columns[::size], device=inputs.device) // size
            inputs = inputs.unflatten(1, (self.groups, -1)).index_select(2, channels).flatten(1, 2)
        if self.apart:
            inputs = self._spread(inputs)
        inputs = F.pad(inputs, [side for pad in reversed(self.padding) for side in pad])
        windows = inputs
        for dim, (size, step, gap) in enumerate(zip(self.kernel, self.stride, self.dilation, strict=True)):
            windows = windows.unfold(2 + dim, (size - 1) * gap + 1, step)[..., ::gap]
        rank = len(self.kernel)
        places: tuple[Any, ...] = torch.unravel_index(positions, windows.shape[2 : 2 + rank])
        everywhere = (slice(None), slice(None), *places)
        drawn = windows[everywhere]  # [samples, channels, positions, k...]
        blocks = drawn.unflatten(1, (self.groups, -1)).movedim((1, 3), (0, 2))
        return blocks.flatten(3).flatten(1, 2)

    def _spread(self, inputs: Tensor) -> Tensor:
        sizes = [(size - 1) * gap + 1 for size, gap in zip(inputs.shape[2:], self.apart, strict=True)]
        spread = inputs.new_zeros(*inputs.shape[:2], *sizes)
        every: tuple[Any, ...] = (..., *(slice(None, None, gap) for gap in self.apart))
        spread[every] = inputs
        return spread

    def targets(self, outputs: Tensor, positions: Tensor) -> Tensor:
        """``[groups, samples * positions, out / groups]``."""
        drawn = self._places(outputs)[:, positions].flatten(0, 1)
        return drawn.unflatten(1, (self.groups, -1)).movedim(1, 0)

    def _places(self, outputs: Tensor) -> Tensor:
        """``[samples, positions, out]``."""
        if not self.kernel:
            return outputs.reshape(len(outputs), -1, outputs.shape[-1])
        return outputs.flatten(2).transpose(1, 2)


def _each(value: Any, rank: int) -> tuple[int, ...]:
    values = [value] if isinstance(value, int) else list(value)
    return tuple(values * rank if len(values) == 1 else values)


def _padding(arguments: dict[str, Any], kernel: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    given = arguments["padding"]
    if given == "valid":
        return ((0, 0),) * len(kernel)
    if given == "same":  # PyTorch puts the odd one after
        totals = [gap * (size - 1) for size, gap in zip(kernel, _each(arguments["dilation"], len(kernel)), strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple((pad, pad) for pad in _each(given, len(kernel)))
