"""Models that are timed from end to end, to which what is between the operations is fitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from workbench.cost.bench import Bench
from workbench.cost.passes import level
from workbench.cost.split import Split
from workbench.factorize import factorize_
from workbench.graph.record import Factored
from workbench.graph.trace import ChannelGraph
from workbench.graph.winnow import record_of, smaller

SHARES = (1.0, 0.75, 0.5, 0.25, 0.125)  # of all groups
MIDDLE, LOW = 3, 1  # levels of all ranks


def anchors_of(bench: Bench, splits: Sequence[Split], grids: Mapping[str, Sequence[int]]) -> list[dict[str, int]]:
    """Units and ranks of each: dense, with fewer channels, with the layers split by each method.

    One more has every layer at a low rank by its first method.
    """
    units = {group.name: group.units for group in bench.graph.exact if group.name in bench.groups}
    shares = SHARES if units else SHARES[:1]
    found = [{name: max(1, round(share * most)) for name, most in units.items()} for share in shares]
    for method in dict.fromkeys(split.method for split in splits):
        found.append({s.axis: level(grids[s.axis], MIDDLE) for s in splits if s.method == method})
    first = {split.site.layer.name: split for split in reversed(splits)}
    return [*found, {s.axis: level(grids[s.axis], LOW) for s in first.values()}] if splits else found


def model_of(graph: ChannelGraph, splits: Sequence[Split], widths: Mapping[str, int]) -> nn.Module:
    """The model of an anchor; what its factors hold does not matter."""
    kept = {group.name: range(widths[group.name]) for group in graph.exact if group.name in widths}
    factors = [Factored(s.site.layer.name, s.method.name, widths[s.axis]) for s in splits if s.axis in widths]
    return factorize_(smaller(graph, graph.model, record_of(graph, kept)), factors, blank=True)
