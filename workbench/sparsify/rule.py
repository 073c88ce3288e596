"""A rule: which tensors, what a weight is worth, what leaves together, and over what the units compete."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from workbench.graph.trace import ChannelGraph
from workbench.select.ranking import Aggregate
from workbench.select.ranking import total as members_total
from workbench.sparsify.amounts import Amount
from workbench.sparsify.contest import Contest
from workbench.sparsify.criteria import Criterion, Magnitude
from workbench.sparsify.patterns import Elements, Pattern
from workbench.sparsify.scopes import Each, Scope
from workbench.sparsify.sites import Site, sites_of
from workbench.sparsify.units import Masks, TensorUnits, Units, group_units
from workbench.sparsify.view import WeightView


@dataclass(frozen=True)
class Channels:
    """Units of the channel groups of a traced model: coupled channels, whole attention heads, hidden units.

    All that makes a unit is masked, the norms it passes, and the weights that read it, which is what removing it means:
    ``winnow_masked`` takes it out. ``groups`` names some; by default all whose removal changes the meaning of no
    operation. ``aggregate`` is that of a unit's members, as in ``workbench.select``.
    """

    groups: tuple[str, ...] = ()
    aggregate: Aggregate = field(default=members_total, repr=False)


@dataclass(frozen=True)
class Rule:
    """Which weights go first. ``layers`` and ``ignore`` are names or globs, as ``sites_of`` takes them.

    Examples
    --------
    >>> Rule(pattern=Elements(), layers=("classifier",)).criterion
    Magnitude(p=1.0)
    """

    criterion: Criterion = Magnitude()
    pattern: Pattern | Channels = Elements()
    scope: Scope = Each()
    layers: tuple[str, ...] = ("*",)
    ignore: tuple[str, ...] = ()

    def units(self, model: nn.Module, graph: ChannelGraph | None = None) -> list[Units]:
        """What competes: one entry a tensor, or a channel group. Shapes that do not divide are refused here.

        Raises
        ------
        ValueError
            A name means nothing, a shape does not divide, or channels were asked for without a graph of this model.
        """
        sites = sites_of(model, self.layers, self.ignore)
        if isinstance(self.pattern, Channels):
            if graph is None or graph.model is not model:
                raise ValueError(
                    "Channels needs to know which channels belong together; give graph=wb.trace(model, example_inputs)"
                )
            wanted = {site.name for site in sites}
            groups = group_units(graph, self.pattern.aggregate, self.pattern.groups)
            return [one for one in groups if wanted & {site.name for site in one.scored}]
        for site in sites:
            self.pattern.cells(site, torch.empty(site.shape, device="meta"))
        return [TensorUnits(site, self.pattern) for site in sites]

    def look(self, units: Sequence[Units], views: Mapping[str, WeightView], known: dict[str, Tensor]) -> None:
        """Take in what the weights and gradients say now; where the criterion remembers, it adds up in ``known``."""
        for one in units:
            now = one.scores(self.criterion, views)
            if self.criterion.remembers:
                now = self.criterion.remember(known.get(one.name, torch.zeros_like(now)), now)
            known[one.name] = now

    def choose(
        self, units: Sequence[Units], known: Mapping[str, Tensor], gone: Mapping[str, Tensor], amount: Amount
    ) -> Masks:
        """The masks under which the amount is gone; what is ``gone``, by unit, goes first."""
        contests = [Contest(one, self.criterion.worth(known[one.name]), gone[one.name]) for one in units]
        return merged(one.spread(kept) for one, kept in zip(units, self.scope(contests, amount), strict=True))


def merged(some: Iterable[Mapping[str, Tensor]]) -> Masks:
    """What all of some masks keep."""
    found: Masks = {}
    for masks in some:
        for name, mask in masks.items():
            found[name] = found[name] & mask if name in found else mask
    return found


def scored_sites(units: Sequence[Units]) -> list[Site]:
    """The tensors by which some units are scored."""
    return list({site.name: site for one in units for site in one.scored}.values())
