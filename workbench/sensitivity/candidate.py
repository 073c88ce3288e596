"""Candidates: one group at one width, with the tensors of its repaired readers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

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
from workbench.spill import Memory, Spill

Place = tuple[str, int]  # a group and the units that it keeps


@dataclass(frozen=True)
class Candidate:
    """The tensors that make a group narrower, and the first operation that then computes something else."""

    group: str
    kept: int
    tensors: dict[str, Tensor]
    first: int
    cuts: tuple[Cut, ...]
    stays: Survivors


Ridges = Mapping[str, Sequence[float]]  # by layer, those to choose from


def ridges_at(graph: ChannelGraph, name: str, path: Path, statistics: Statistics, width: int) -> Ridges:
    """The ridge of each layer that reads a group, chosen at one width: it hardly changes with it."""
    found: dict[str, Sequence[float]] = {}
    for layer in _fitted(graph, name):
        columns = kept_columns(graph, layer, {name: path.kept(width)})
        ridge = repair_layer(graph, layer, columns, statistics.layers[layer.name].of(columns)).ridge
        found[layer.name] = RIDGES if ridge is None else [ridge]
    return found


def _fitted(graph: ChannelGraph, name: str) -> list[Layer]:
    """The layers that read a group and are fitted anew: a weight used more than once is fitted to no single use."""
    return [layer for layer in graph.consumers[name] if graph.runs_once(layer)]


def candidates(
    graph: ChannelGraph, name: str, path: Path, statistics: Statistics, widths: Sequence[int], ridges: Ridges
) -> list[Candidate]:
    """One group at some widths, repaired from the statistics."""
    keep = {kept: {name: path.kept(kept)} for kept in widths}
    cuts = {kept: record_of(graph, keep[kept]).cuts for kept in widths}
    read = {cut.tensor for some in cuts.values() for cut in some if cut.role == "in"}
    tensors: dict[int, dict[str, Tensor]] = {}
    for kept in widths:
        zeroed = masked(graph.program.tensors, cuts[kept])
        tensors[kept] = {tensor: zeroed[tensor] for tensor in read}
    for layer in _fitted(graph, name):
        evidence = statistics.layers[layer.name]
        for kept in widths:
            columns = kept_columns(graph, layer, keep[kept])
            repair = repair_layer(graph, layer, columns, evidence.of(columns), ridges[layer.name])
            tensors[kept] |= repaired_tensors(layer, repair, graph.program.tensors)
    return [_candidate(graph, name, kept, tensors[kept], cuts[kept]) for kept in widths]


def _candidate(graph: ChannelGraph, name: str, kept: int, tensors: dict[str, Tensor], cuts: Sequence[Cut]) -> Candidate:
    stays = survivors(graph.provenance, cuts)
    changed = {place for place, tensor in graph.program.state.items() if tensor in tensors}
    first = first_change(graph.program, changed | altered_nodes(graph.program, stays))
    return Candidate(name, kept, tensors, first, tuple(cuts), stays)


def first_change(program: Program, changed: set[str]) -> int:
    """The place of the first operation whose value changes when some values do: of operations, or of tensors."""
    for place, node in enumerate(program.nodes):
        if node.name in changed or any(used.name in changed for used in node.all_input_nodes):
            return place
    return len(program.nodes)


class Candidates:
    """Makes candidates when they are asked for, and remembers them; what exceeds ``memory`` (bytes) waits on disk."""

    def __init__(
        self, graph: ChannelGraph, paths: Mapping[str, Path], widths: Mapping[str, Sequence[int]],
        statistics: Statistics, memory: int,
    ):  # fmt: skip
        self.graph, self.paths, self.widths, self.statistics, self.memory = graph, paths, widths, statistics, memory
        self.made: dict[Place, Candidate] = {}  # without their tensors
        self.tensors = Spill(Memory(memory))
        self.ridges: dict[str, Ridges] = {}

    def chunks(self, places: Sequence[Place], most: int) -> Iterator[list[Candidate]]:
        """Candidates, at most so many at a time, and as fit into memory."""
        chunk: list[Candidate] = []
        size = 0
        for name in dict.fromkeys(name for name, _ in places):
            for candidate in self.of(name, [kept for other, kept in places if other == name]):
                more = sum(tensor.nbytes for tensor in candidate.tensors.values())
                if chunk and (size + more > self.memory or len(chunk) >= most):
                    yield chunk
                    chunk, size = [], 0
                chunk.append(candidate)
                size += more
        if chunk:
            yield chunk

    def of(self, name: str, widths: Sequence[int]) -> list[Candidate]:
        """One group at some widths."""
        new = [kept for kept in widths if (name, kept) not in self.made]
        given = self.graph, name, self.paths[name], self.statistics
        if new and name not in self.ridges:
            self.ridges[name] = ridges_at(*given, self.widths[name][len(self.widths[name]) // 2])
        for candidate in candidates(*given, new, self.ridges[name]) if new else ():
            self.made[name, candidate.kept] = replace(candidate, tensors={})
            self.tensors[f"{name}:{candidate.kept}"] = candidate.tensors
        return [replace(self.made[name, kept], tensors=self.tensors[f"{name}:{kept}"]) for kept in widths]
