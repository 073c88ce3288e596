"""Candidates: one group at one width, with the tensors of its repaired readers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from workbench.calibrate import Statistics
from workbench.graph.masked import altered_nodes, masked, survivors
from workbench.graph.program import Program
from workbench.graph.record import Cut
from workbench.graph.survivors import Survivors
from workbench.graph.trace import ChannelGraph, Layer
from workbench.graph.winnow import record_of
from workbench.reconstruct import RIDGES
from workbench.repair import kept_columns, repair_layer, repaired_tensors
from workbench.select import Path


@dataclass(frozen=True)
class Candidate:
    """The tensors that make a group narrower, and the first operation that then computes something else."""

    group: str
    kept: int
    tensors: dict[str, Tensor]
    first: int
    stays: Survivors


def candidates(
    graph: ChannelGraph, name: str, path: Path, statistics: Statistics, widths: Sequence[int]
) -> list[Candidate]:
    """One group at some widths, repaired from the statistics."""
    keep = {kept: {name: path.kept(kept)} for kept in widths}
    cuts = {kept: record_of(graph, keep[kept]).cuts for kept in widths}
    read = {cut.tensor for some in cuts.values() for cut in some if cut.role == "in"}
    tensors: dict[int, dict[str, Tensor]] = {}
    for kept in widths:
        zeroed = masked(graph.program.tensors, cuts[kept])
        tensors[kept] = {tensor: zeroed[tensor] for tensor in read}
    for layer in graph.consumers[name]:
        if graph.runs_once(layer):  # a weight used more than once is fitted to no single use
            columns = {kept: kept_columns(graph, layer, keep[kept]) for kept in widths}
            for kept, found in _repaired(graph, layer, statistics, columns).items():
                tensors[kept] |= found
    return [_candidate(graph, name, kept, tensors[kept], cuts[kept]) for kept in widths]


def _candidate(graph: ChannelGraph, name: str, kept: int, tensors: dict[str, Tensor], cuts: Sequence[Cut]) -> Candidate:
    stays = survivors(graph.provenance, cuts)
    changed = {place for place, tensor in graph.program.state.items() if tensor in tensors}
    first = first_change(graph.program, changed | altered_nodes(graph.program, stays))
    return Candidate(name, kept, tensors, first, stays)


def first_change(program: Program, changed: set[str]) -> int:
    """The place of the first operation whose value changes when some values do: of operations, or of tensors."""
    for place, node in enumerate(program.nodes):
        if node.name in changed or any(used.name in changed for used in node.all_input_nodes):
            return place
    return len(program.nodes)


def _repaired(
    graph: ChannelGraph, layer: Layer, statistics: Statistics, columns: Mapping[int, Sequence[int]]
) -> dict[int, dict[str, Tensor]]:
    """A layer's tensors at every width, by the columns that it keeps there."""
    tensors = graph.program.tensors
    evidence = statistics.layers[layer.name]
    widths = sorted(columns)
    if not widths:
        return {}
    # the ridge that suits a layer hardly changes with the width: it is chosen once, in the middle
    middle = columns[widths[len(widths) // 2]]
    ridge = repair_layer(graph, layer, middle, evidence.of(middle)).ridge
    ridges = RIDGES if ridge is None else [ridge]
    return {
        kept: repaired_tensors(layer, repair_layer(graph, layer, stay, evidence.of(stay), ridges), tensors)
        for kept, stay in columns.items()
    }
