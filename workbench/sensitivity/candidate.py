"""Candidates: a group at some width, or several, with the tensors of the repaired layers that read them.

A layer of a lower rank is one, too: its weight is that of its factors together, so that nothing else changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from workbench.calibrate import Evidence, Statistics
from workbench.factorize import Form, Ladder
from workbench.graph.masked import altered_nodes, masked, survivors
from workbench.graph.program import Program
from workbench.graph.record import Cut
from workbench.graph.survivors import Survivors
from workbench.graph.trace import ChannelGraph, Layer
from workbench.graph.winnow import record_of
from workbench.reconstruct import RIDGES, Repair
from workbench.repair import kept_columns, lowered, repair_layer, repaired_tensors
from workbench.select import Path
from workbench.spill import Memory, Spill

Place = tuple[str, int]  # a group and the units that it keeps, or a layer's ladder and the place on it
Widths = tuple[Place, ...]  # of one group, or of several that shrink together


@dataclass(frozen=True)
class Candidate:
    """The tensors that make groups narrower, and the first operation that then computes something else."""

    widths: Widths
    tensors: dict[str, Tensor]
    first: int
    cuts: tuple[Cut, ...]
    stays: Survivors


Ladders = Mapping[str, Ladder]  # by the name of the choice
RANK_STEPS = 10  # of the descent: what they leave is little beside the uncertainty of a score
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
    graph: ChannelGraph, paths: Mapping[str, Path], several: Sequence[Widths], statistics: Statistics, ridges: Ridges,
    ladders: Ladders | None = None,
) -> list[Candidate]:  # fmt: skip
    """Groups at some widths and layers at some ranks, repaired from the statistics."""
    ladders = ladders or {}
    keep = {widths: {name: paths[name].kept(kept) for name, kept in widths if name not in ladders}
            for widths in several}  # fmt: skip
    cuts = {widths: record_of(graph, kept).cuts for widths, kept in keep.items()}
    tensors: dict[Widths, dict[str, Tensor]] = {}
    readers: dict[str, Layer] = {}
    for widths in several:
        zeroed = masked(graph.program.tensors, cuts[widths])
        tensors[widths] = {cut.tensor: zeroed[cut.tensor] for cut in cuts[widths] if cut.role == "in"}
        readers |= {layer.name: layer for name in keep[widths] for layer in _fitted(graph, name)}
        readers |= {ladders[name].layer: ladders[name].site.layer for name, _ in widths if name in ladders}
    for layer in readers.values():
        evidence = statistics.layers[layer.name]
        made: dict[tuple[tuple[int, ...], Form | None], dict[str, Tensor]] = {}
        for widths in several:
            columns = tuple(kept_columns(graph, layer, keep[widths]))
            form = next((ladders[name].form(place) for name, place in widths
                         if name in ladders and ladders[name].layer == layer.name), None)  # fmt: skip
            if (columns, form) not in made:
                repair = _repair(graph, layer, columns, form, evidence.of(columns), ridges.get(layer.name))
                made[columns, form] = repaired_tensors(layer, repair, graph.program.tensors)
            tensors[widths] |= made[columns, form]
    return [_candidate(graph, widths, tensors[widths], cuts[widths]) for widths in several]


def _repair(
    graph: ChannelGraph, layer: Layer, columns: Sequence[int], form: Form | None, evidence: Evidence,
    ridges: Sequence[float] | None,
) -> Repair:  # fmt: skip
    """A layer with only these columns, of a lower rank where it shall have one; without ridges it keeps its weight."""
    tensors = graph.program.tensors
    if ridges is None:
        repair = Repair(tensors[layer.weight], tensors[layer.bias] if layer.bias else None, (0.0, 0.0), None)
    else:
        repair = repair_layer(graph, layer, columns, evidence, ridges)
    return repair if form is None else lowered(layer, form, repair, columns, evidence, steps=RANK_STEPS)


def _candidate(graph: ChannelGraph, widths: Widths, tensors: dict[str, Tensor], cuts: Sequence[Cut]) -> Candidate:
    stays = survivors(graph.provenance, cuts)
    changed = {place for place, tensor in graph.program.state.items() if tensor in tensors}
    first = first_change(graph.program, changed | altered_nodes(graph.program, stays))
    return Candidate(widths, tensors, first, tuple(cuts), stays)


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
        statistics: Statistics, memory: int, ladders: Ladders | None = None,
    ):  # fmt: skip
        self.ladders = ladders or {}
        self.graph, self.paths, self.widths, self.statistics, self.memory = graph, paths, widths, statistics, memory
        self.made: dict[Widths, Candidate] = {}  # without their tensors
        self.tensors = Spill(Memory(memory))
        self.ridges: dict[str, Ridges] = {}  # by group

    def chunks(self, several: Sequence[Widths], most: int) -> Iterator[list[Candidate]]:
        """Candidates, at most so many at a time, and as fit into memory."""
        by_groups: dict[tuple[str, ...], list[Widths]] = {}
        for widths in several:
            by_groups.setdefault(tuple(name for name, _ in widths), []).append(widths)
        chunk: list[Candidate] = []
        size = 0
        for some in by_groups.values():
            for candidate in self.of(some):
                more = sum(tensor.nbytes for tensor in candidate.tensors.values())
                if chunk and (size + more > self.memory or len(chunk) >= most):
                    yield chunk
                    chunk, size = [], 0
                chunk.append(candidate)
                size += more
        if chunk:
            yield chunk

    def of(self, several: Sequence[Widths]) -> list[Candidate]:
        """The same groups at some widths."""
        new = [widths for widths in several if widths not in self.made]
        ridges: dict[str, Sequence[float]] = {}
        for name, _ in new[0] if new else ():
            if name in self.ladders:
                continue
            if name not in self.ridges:
                middle = self.widths[name][len(self.widths[name]) // 2]
                self.ridges[name] = ridges_at(self.graph, name, self.paths[name], self.statistics, middle)
            ridges |= self.ridges[name]
        for candidate in candidates(self.graph, self.paths, new, self.statistics, ridges, self.ladders):
            self.made[candidate.widths] = replace(candidate, tensors={})
            self.tensors[str(candidate.widths)] = candidate.tensors
        return [replace(self.made[widths], tensors=self.tensors[str(widths)]) for widths in several]
