"""Units of one tensor, or of all tensors that a channel group couples: scored and masked as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.graph.groups import ChannelGroup, Member
from workbench.graph.trace import ChannelGraph
from workbench.select.path import by_unit
from workbench.select.ranking import Aggregate
from workbench.sparsify.criteria.base import Criterion
from workbench.sparsify.patterns import Pattern, total
from workbench.sparsify.sites import Site
from workbench.sparsify.view import WeightView

Masks = dict[str, Tensor]  # by the parameter's name, bool in its shape: True stays


@dataclass(frozen=True)
class TensorUnits:
    """The units of one tensor, as a pattern arranges it."""

    site: Site
    pattern: Pattern

    @property
    def name(self) -> str:
        """The tensor's."""
        return self.site.name

    @property
    def masked(self) -> dict[str, torch.Size]:
        """The tensors that are masked."""
        return {self.site.name: self.site.shape}

    @property
    def scored(self) -> tuple[Site, ...]:
        """The tensors by which units are scored."""
        return (self.site,)

    def most(self, units: int) -> int:
        """How many of the units of a set may leave."""
        return self.pattern.most(units)

    def scores(self, criterion: Criterion, views: Mapping[str, WeightView]) -> Tensor:
        """What one look says of the units, ``[sets, units]``."""
        elements = criterion.elements(views[self.name])
        return criterion.units(self.pattern.cells(self.site, elements), self.pattern.reduce)

    def parts(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The elements of each unit, ``[units, elements]``."""
        return self.pattern.cells(self.site, tensors[self.name]).flatten(0, 1)

    def present(self, masks: Mapping[str, Tensor]) -> Tensor:
        """Which units have an element that is not masked, bool ``[sets, units]``."""
        return self.pattern.cells(self.site, masks[self.name]).any(-1)

    def spread(self, kept: Tensor) -> Masks:
        """The mask that keeps these units, ``[sets, units]``."""
        places = self.pattern.cells(self.site, torch.arange(self.site.shape.numel()).view(self.site.shape))
        mask = torch.empty(self.site.shape.numel(), dtype=torch.bool)
        mask[places] = kept.cpu()[..., None].expand(places.shape)
        return {self.name: mask.view(self.site.shape).to(kept.device)}


@dataclass(frozen=True)
class GroupUnits:
    """The units of a channel group: all that makes them, that they pass and that reads them, masked together.

    Scored by the weights that make them, as in ``workbench.select``; biases are no measure of what a channel carries.
    """

    group: ChannelGroup
    sites: Mapping[str, Site]  # of all parameters of the model
    aggregate: Aggregate

    @property
    def name(self) -> str:
        """The group's."""
        return self.group.name

    @property
    def masked(self) -> dict[str, torch.Size]:
        """The tensors that are masked: all its parameters."""
        names = [member.tensor for member in self.group.members if member.tensor in self.sites]
        return {name: self.sites[name].shape for name in names}

    @property
    def scored(self) -> tuple[Site, ...]:
        """The tensors by which units are scored."""
        makers = dict.fromkeys(m.tensor for m in self.group.members if m.role == "out")
        return tuple(self.sites[name] for name in makers if name in self.sites and len(self.sites[name].shape) > 1)

    def most(self, units: int) -> int:
        """One must stay."""
        return units - 1

    def scores(self, criterion: Criterion, views: Mapping[str, WeightView]) -> Tensor:
        """What one look says of the units, ``[1, units]``."""
        elements = {name: criterion.elements(views[name]) for name in dict.fromkeys(m.tensor for m in self._makers)}
        cells = [_cells(member, elements)[None] for member in self._makers]
        return self.aggregate(torch.stack([criterion.units(some, total)[0] for some in cells]))[None]

    def parts(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The elements of each unit in all weights that make it, ``[units, elements]``."""
        return torch.cat([_cells(member, tensors) for member in self._makers], 1)

    @property
    def _makers(self) -> list[Member]:
        scored = {site.name for site in self.scored}
        return [m for m in self.group.members if m.role == "out" and m.tensor in scored]

    def present(self, masks: Mapping[str, Tensor]) -> Tensor:
        """Which units have an element that is not masked in all that makes them, bool ``[1, units]``."""
        present = torch.zeros(self.group.units, dtype=torch.bool)
        for member in self.group.members:
            if member.tensor in self.masked and member.role != "in":
                mask = masks[member.tensor].movedim(member.dim, 0)
                rows = mask.reshape(len(mask), -1).any(1)
                present |= torch.stack([rows[list(unit)].any() for unit in member.indices]).to(present.device)
        return present[None]

    def spread(self, kept: Tensor) -> Masks:
        """The masks that keep these units, ``[1, units]``."""
        masks = {name: torch.ones(shape, dtype=torch.bool, device=kept.device) for name, shape in self.masked.items()}
        for member in self.group.members:
            if member.tensor in masks:
                gone = [index for unit, stays in zip(member.indices, kept[0].tolist(), strict=True)
                        if not stays for index in unit]  # fmt: skip
                places = torch.tensor(gone, dtype=torch.long, device=kept.device)
                masks[member.tensor].index_fill_(member.dim, places, 0)
        return masks


def _cells(member: Member, tensors: Mapping[str, Tensor]) -> Tensor:
    return by_unit(tensors[member.tensor].movedim(member.dim, 0).flatten(1), member.indices)


Units = TensorUnits | GroupUnits


def group_units(graph: ChannelGraph, aggregate: Aggregate, names: tuple[str, ...] = ()) -> list[GroupUnits]:
    """The groups whose channels can be masked without changing what any operation means, or those that are named.

    Raises
    ------
    KeyError
        There is no such group.
    """
    groups = [graph[name] for name in names] if names else list(graph.exact)
    sites = {name: Site(name, tensor.shape) for name, tensor in graph.parameters.items()}
    found = [GroupUnits(group, sites, aggregate) for group in groups]
    return [one for one in found if one.scored or names]
