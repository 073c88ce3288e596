"""From kept units to the repaired tensors of the layers that read them: zero in dropped columns, in the old shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workbench.calibrate import Evidence
from workbench.graph.call import bind, is_batch_norm
from workbench.graph.trace import ChannelGraph, Layer
from workbench.reconstruct import RIDGES, Repair, reconstruct
from workbench.select.path import columns_of

Kept = Mapping[str, Iterable[int]]  # group -> the units that stay


@dataclass(frozen=True)
class Repairer:
    """Repairs one layer of a graph. ``mean`` names the running mean of the BN behind a layer without bias.

    A BN subtracts its mean, so a new bias b is the same as a mean lower by b: no parameter need be added.
    """

    layer: Layer
    mean: str | None

    @classmethod
    def of(cls, layer: Layer, graph: ChannelGraph) -> Repairer:
        """Find where the bias of a layer can go."""
        node = next(node for node in graph.program.nodes if node.name == layer.node)
        users = list(node.users)
        if layer.bias is None and len(users) == 1 and is_batch_norm(users[0]):
            mean = bind(users[0], users[0].args, users[0].kwargs)["running_mean"]
            if len(mean.users) == 1:  # else it is another layer's too
                return cls(layer, graph.program.state.get(mean.name))
        return cls(layer, None)

    def repair(
        self,
        tensors: Mapping[str, Tensor],
        columns: Iterable[int],
        evidence: Evidence,
        ridges: Sequence[float] = RIDGES,
    ) -> Repair:
        """The least-squares repair with only these columns."""
        bias = tensors[self.layer.bias] if self.layer.bias else None
        intercept = bool(self.layer.bias or self.mean)
        return reconstruct(
            tensors[self.layer.weight], bias, sorted(columns), evidence, intercept=intercept, ridges=ridges
        )

    def tensors(self, repair: Repair, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The model's tensors that the repair changes."""
        changed = {self.layer.weight: repair.weight}
        if self.layer.bias and repair.bias is not None:
            changed[self.layer.bias] = repair.bias
        elif self.mean and repair.bias is not None:
            changed[self.mean] = tensors[self.mean] - repair.bias
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


def set_tensors_(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Write values into a model's parameters and buffers."""
    own = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
