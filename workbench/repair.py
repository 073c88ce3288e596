"""From kept units to the repaired tensors of the layers that read them: zero in dropped columns, in the old shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from workbench.calibrate import Evidence
from workbench.graph.trace import ChannelGraph, Layer
from workbench.reconstruct import RIDGES, Repair, reconstruct
from workbench.select.path import columns_of

Kept = Mapping[str, Iterable[int]]  # group -> the units that stay


def repair_layer(
    layer: Layer, tensors: Mapping[str, Tensor], columns: Iterable[int], evidence: Evidence,
    ridges: Sequence[float] = RIDGES,
) -> Repair:  # fmt: skip
    """The least-squares repair of a layer with only these columns of its flattened weight."""
    bias = tensors[layer.bias] if layer.bias else None
    intercept = bool(layer.bias or layer.mean)
    return reconstruct(tensors[layer.weight], bias, sorted(columns), evidence, intercept=intercept, ridges=ridges)


def repaired_tensors(layer: Layer, repair: Repair, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The model's tensors that a repair changes."""
    changed = {layer.weight: repair.weight}
    if layer.bias and repair.bias is not None:
        changed[layer.bias] = repair.bias
    elif layer.mean and repair.bias is not None:
        changed[layer.mean] = tensors[layer.mean] - repair.bias
    return changed


def kept_columns(graph: ChannelGraph, layer: Layer, kept: Kept) -> list[int]:
    """The columns of a layer's flattened weight that stay when only these units do."""
    gone: set[int] = set()
    for name, units in kept.items():
        if any(layer.name == reader.name for reader in graph.consumers[name]):
            stay = set(units)
            columns = columns_of(graph[name], layer)
            gone.update(column for unit, some in enumerate(columns) if unit not in stay for column in some)
    return [column for column in range(layer.shape[1:].numel()) if column not in gone]
