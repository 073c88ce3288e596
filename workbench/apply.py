"""``apply``: a plan and calibration data to a smaller model, repaired layer by layer against the original.

The original and the compressed network are carried through the calibration data side by side, one operation at a time.
At each layer the inputs are those of the compressed network so far, the wanted outputs the original's, so that a later
layer makes good what the earlier ones lost.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from tqdm.auto import tqdm

from workbench.calibrate import MEMORY, ROWS, Batches, Reader
from workbench.factorize import Shape, factorize_, form_of
from workbench.graph.masked import altered_nodes, compute_masked, masked, survivors
from workbench.graph.program import Values
from workbench.graph.tensors import set_tensors_
from workbench.graph.trace import ChannelGraph
from workbench.graph.winnow import record_of, smaller
from workbench.pair import Pair
from workbench.plan import Plan
from workbench.reconstruct import RIDGES, Repair
from workbench.refine import Refined, Refinement
from workbench.repair import kept_columns, lowered, repair_layer, repaired_tensors


@dataclass(frozen=True)
class Applied:
    """The smaller model, how the layers were repaired, by name, and what the joint refinement then gained."""

    model: nn.Module
    repairs: dict[str, Repair]
    refined: Refined | None = None


def apply(
    graph: ChannelGraph, plan: Plan, calibration: Iterable[Any], *, refinement: Refinement | None = None,
    ridges: Sequence[float] = RIDGES, rows: int = ROWS, memory: int = MEMORY, seed: int = 0, progress: bool = False,
) -> Applied:  # fmt: skip
    """Make the smaller model that a plan describes: repaired layer by layer, then all together with ``refinement``.

    ``ridges`` are those to choose from at each layer: ``()`` leaves all weights as they were, and ``(math.inf,)`` only
    folds what the removed channels gave on average into the biases. ``memory`` is how many bytes the values of both
    networks may take between two operations (the others wait on disk), and in a step of ``refinement``.

    Raises
    ------
    ValueError
        The plan was made for another model, or one of its groups or ranks is none that this one can have.
    Refused
        The model's forward contradicts the smaller tensors, or a layer cannot be replaced.
    """
    _check(graph, plan)
    batches = Batches.of(calibration)
    if refinement is None or not plan.places:
        return Applied(*_repaired(_Applying(graph, plan, batches, ridges, rows, memory, seed), progress))
    fitted = refinement.split(graph, batches).fitted  # what is to judge a refinement must be new to the repair, too
    small, repairs = _repaired(_Applying(graph, plan, fitted, ridges, rows, memory, seed), progress)
    refined = refinement.apply_(graph, small, batches, memory=memory, seed=seed, progress=progress)
    if not refined.kept:  # what was to judge can help the repair instead
        small, repairs = _repaired(_Applying(graph, plan, batches, ridges, rows, memory, seed), progress)
    return Applied(small, repairs, refined)


def _check(graph: ChannelGraph, plan: Plan) -> None:
    if plan.model != graph.fingerprint:
        raise ValueError(
            f"the plan was made for the model {plan.model}, this one is {graph.fingerprint}; make a plan for this model"
        )
    sizes = {group.name: group.units for group in graph.groups}
    if strange := [name for name in {**plan.kept, **plan.units} if plan.units.get(name) != sizes.get(name)]:
        raise ValueError(
            f"the plan says of the group {strange[0]} that it has {plan.units.get(strange[0], 'no')} units, and there "
            f"are {sizes.get(strange[0], 'none')}; make the plan anew"
        )
    for name, units in plan.kept.items():
        if len(set(units)) < len(units):
            raise ValueError(f"the plan keeps units of the group {name} twice; name each once")
    shapes = {layer.name: Shape.of(layer.shape, layer.groups) for layer in graph.layers}
    for factored in plan.factors:
        if factored.layer not in shapes:
            raise ValueError(
                f"the plan lowers the rank of {factored.layer}, which is no layer; the layers are {', '.join(shapes)}"
            )
        try:
            form_of(factored).checked(shapes[factored.layer])
        except ValueError as error:
            raise ValueError(f"the plan lowers the rank of {factored.layer}: {error}") from None


@torch.no_grad()
def _repaired(work: _Applying, progress: bool) -> tuple[nn.Module, dict[str, Repair]]:
    tensors, repairs = work.run(progress)
    repaired = copy.deepcopy(work.graph.model)
    set_tensors_(repaired, tensors)
    small = smaller(work.graph, repaired, record_of(work.graph, work.plan.kept))
    return factorize_(small, work.plan.factors) if work.plan.ranks else small, repairs


class _Applying:
    """A plan on its way through the network."""

    def __init__(
        self, graph: ChannelGraph, plan: Plan, batches: Batches, ridges: Sequence[float], rows: int, memory: int,
        seed: int,
    ):  # fmt: skip
        self.graph, self.plan, self.program, self.ridges = graph, plan, graph.program, ridges
        self.forms = {factored.layer: form_of(factored) for factored in plan.factors}
        # a weight used more than once is fitted to no single use: it only loses columns
        self.layers = {layer.node: layer for layer in graph.layers if graph.runs_once(layer)}
        self.readers = {
            node: Reader.of(layer, graph, rows, batches.samples, seed) for node, layer in self.layers.items()
        }
        self.cuts = record_of(graph, plan.kept).cuts
        self.stays = survivors(graph.provenance, self.cuts)
        self.altered = altered_nodes(self.program, self.stays)
        self.pair = Pair(self.program, batches, memory, self._masked())
        self.tensors: dict[str, Tensor] = {}
        self.repairs: dict[str, Repair] = {}

    def _masked(self) -> Values:
        """The tensors that no repair makes, zero where removed channels would be read."""
        repaired = {layer.weight for layer in self.layers.values()}
        cuts = [cut for cut in self.cuts if cut.tensor not in repaired and cut.role == "in"]
        tensors = masked(self.program.tensors, cuts)
        names = {cut.tensor for cut in cuts}
        return {place: tensors[name] for place, name in self.program.state.items() if name in names}

    def run(self, progress: bool) -> tuple[dict[str, Tensor], dict[str, Repair]]:
        """Every operation in order; the changed tensors and the repairs."""
        for node in tqdm(self.program.nodes, "apply", disable=not progress, unit="op"):
            self.pair.run(node)
            if node.name in self.layers:
                self._repair(node)
            if node.name in self.altered or any(self.pair.differs(used.name) for used in node.all_input_nodes):
                self.pair.follow(node, partial(compute_masked, node, stays=self.stays))
            self.pair.forget(node)
        return self.tensors, self.repairs

    def _repair(self, node: Node) -> None:
        """Fit the layer to the original's outputs from the compressed network's inputs."""
        layer, reader = self.layers[node.name], self.readers[node.name]
        columns = kept_columns(self.graph, layer, self.plan.cut)
        form = self.forms.get(layer.name)
        if not self.pair.differs(reader.how.input) and len(columns) == reader.size[1] and form is None:
            return  # nothing before it changed, and it loses nothing
        evidence = self.pair.evidence(reader, columns)
        stay = next((cut.kept for cut in self.cuts if cut.tensor == layer.weight and cut.role == "out"), None)
        repair = repair_layer(self.graph, layer, columns, evidence, self.ridges, stay)
        if form is not None:
            repair = lowered(layer, form, repair, columns, evidence, stay)
        self.repairs[layer.name] = repair
        changed = repaired_tensors(layer, repair, self.program.tensors)
        self.tensors |= changed
        self.pair.take(changed)
