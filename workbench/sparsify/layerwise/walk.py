"""``prune_layerwise``: every layer in turn, from what the network pruned so far gives it to read."""

from __future__ import annotations

import copy
import hashlib
import os
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from tqdm.auto import tqdm

from workbench.calibrate import MEMORY, ROWS, Batches, Evidence, Reader
from workbench.drift import Shortcut
from workbench.graph.inputs import content_of
from workbench.graph.part import with_part
from workbench.graph.program import compute
from workbench.graph.tensors import set_tensors_
from workbench.graph.trace import ChannelGraph, Layer
from workbench.sparsify.amounts import Amount, amount_of
from workbench.sparsify.layerwise.kept import Kept
from workbench.sparsify.layerwise.outcome import Pruned
from workbench.sparsify.layerwise.problem import Method
from workbench.sparsify.layerwise.sites import Like, chosen
from workbench.sparsify.layerwise.sparse_gpt import SparseGpt
from workbench.sparsify.layerwise.step import Step, Surgery
from workbench.sparsify.masks import fitting
from workbench.sparsify.patterns import Elements, Pattern
from workbench.sparsify.scopes import Shares
from workbench.sparsify.units import Masks
from workbench.spill import Memory, Spill

REFIT = 30  # steps of conjugate gradients


@torch.no_grad()
def prune_layerwise(
    graph: ChannelGraph, amount: Amount | float | Shares, method: Method = SparseGpt(), pattern: Pattern = Elements(),
    *, calibration: Iterable[Any], layers: Sequence[Like] = ("*",), ignore: Sequence[Like] = (),
    masks: Mapping[str, Tensor] | None = None, correct: bool = True, refit: int = REFIT, rows: int = ROWS,
    memory: int = MEMORY, store: str | os.PathLike[str] | None = None, seed: int = 0, progress: bool = False,
) -> Pruned:  # fmt: skip
    """A sparse copy of a traced model: layer after layer loses weights, and those that stay make up for it.

    Parameters
    ----------
    amount : of every layer, or ``Shares`` that give each weight its own
    method : chooses and updates: ``SparseGpt``, ``Obc``, ``Scored(Wanda())``, ``Scored()`` for magnitude
    pattern : ``Elements``, ``NofM`` or ``Blocks``
    calibration : model inputs, as for ``Study``
    layers, ignore : names of layers, patterns of names or types of modules
    masks : what is masked before; it stays masked and counts towards the amount
    correct : draw each layer towards what it gave in the original, bias and what its shortcut lost included; without,
        towards its own weights
    refit : steps by which the weights under the mask that was chosen come closer to the best ones; 0 keeps the method's
    rows : at most about this many rows a layer are drawn
    memory : bytes that the values of both networks may take between two operations; the others wait on disk
    store : a folder for finished layers, behind which the same call goes on when it was killed

    Raises
    ------
    ValueError
        A name means nothing, a shape does not divide, the amount cannot be had, or the store belongs to something else.

    Examples
    --------
    >>> import workbench as wb
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    >>> graph = wb.trace(model, torch.zeros(1, 8))
    >>> prune_layerwise(graph, 0.5, pattern=wb.sparsify.NofM(2, 4), calibration=[torch.randn(64, 8)])
    Pruned(Sequential: 50.0 % of 192 weights in 2 layers are zero)
    """
    places, left = chosen(graph, layers, ignore, pattern)
    batches = Batches.of(calibration)
    fitting(graph.model, masks or {})
    kept = Kept(store, {
        "model": graph.fingerprint, "calibration": batches.fingerprint, "amount": repr(amount), "method": repr(method),
        "pattern": repr(pattern), "layers": ", ".join(layer.name for layer in places.values()),
        "masks": _digest(masks or {}), "correct": repr(correct), "refit": repr(refit), "rows": repr(rows),
        "seed": repr(seed),
    })  # fmt: skip
    surgery = Surgery(graph, method, pattern, correct, refit)

    def operate(layer: Layer, evidence: Callable[[], Evidence]) -> tuple[dict[str, Tensor], Step]:
        found = kept.get(layer.name)
        if found is None:
            gone = ~masks[layer.weight] if masks and layer.weight in masks else _none(graph, layer)
            found = surgery.operate(layer, evidence(), _amount(amount, layer), gone)
            kept.add(layer.name, *found)
        return found

    walk = _Walk(graph, batches, places, operate, rows, memory, seed, correct)
    steps, chosen_masks = walk.run(progress)
    pruned = copy.deepcopy(graph.model)
    set_tensors_(pruned, walk.changed)
    if graph.whole is not None:
        pruned = with_part(graph.whole, graph.submodule, pruned)
    return Pruned(pruned, dict(masks or {}) | chosen_masks, tuple(steps), left)


def _amount(amount: Amount | float | Shares, layer: Layer) -> Amount:
    return amount_of(amount.share(layer.weight) if isinstance(amount, Shares) else amount)


def _none(graph: ChannelGraph, layer: Layer) -> Tensor:
    return torch.zeros_like(graph.program.tensors[layer.weight], dtype=torch.bool)


def _digest(masks: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, mask in sorted(masks.items()):
        digest.update(name.encode() + content_of(mask))
    return digest.hexdigest()[:16] if masks else ""


Operate = Callable[[Layer, Callable[[], Evidence]], tuple[dict[str, Tensor], Step]]


class _Walk:
    """The original and the pruned network on all the calibration data, operation by operation.

    ``operate`` is called at each layer, and may ask for the evidence.
    """

    def __init__(
        self, graph: ChannelGraph, batches: Batches, layers: Mapping[str, Layer], operate: Operate, rows: int,
        memory: int, seed: int, correct: bool,
    ):  # fmt: skip
        self.program, self.layers, self.operate, self.correct = graph.program, layers, operate, correct
        self.readers = {node: Reader.of(layer, graph, rows, batches.samples, seed) for node, layer in layers.items()}
        sizes = [inputs.batch or 1 for inputs in batches]
        self.starts = [sum(sizes[:number]) for number in range(len(sizes))]
        shared = Memory(memory)
        self.dense = [Spill(shared, self.program.start(inputs)) for inputs in batches]
        self.pruned = [Spill(shared) for _ in self.dense]  # what differs; everything else is shared with the original
        self.changed: dict[str, Tensor] = {}

    def run(self, progress: bool) -> tuple[list[Step], Masks]:
        """Every operation in order, up to the last layer that is pruned: a head's outputs are large, and nobody's."""
        steps, masks = [], {}
        last = max(place for place, node in enumerate(self.program.nodes) if node.name in self.layers)
        for node in tqdm(self.program.nodes[: last + 1], "prune", disable=not progress, unit="op"):
            for values in self.dense:
                self.program.run([node], values)
            layer = self.layers.get(node.name)
            if layer is not None:
                tensors, step = self.operate(layer, partial(self._evidence, node))
                masks[layer.weight] = tensors.pop("mask")
                steps.append(step)
                self._take(tensors)
            if any(used.name in self.pruned[0] for used in node.all_input_nodes):
                for values, pruned in zip(self.dense, self.pruned, strict=True):
                    pruned[node.name] = compute(node, ChainMap(pruned, values))
            for values in (*self.dense, *self.pruned):
                self.program.forget(node, values)
        return steps, masks

    def _take(self, tensors: Mapping[str, Tensor]) -> None:
        self.changed |= tensors
        names = {holder: name for holder, name in self.program.state.items() if name in tensors}
        for pruned in self.pruned:
            pruned.hold({holder: tensors[name] for holder, name in names.items()})

    def _evidence(self, node: Node) -> Evidence:
        """What the pruned network reads, with what should come out: the original's, and what the shortcut lost."""
        reader = self.readers[node.name]
        shortcut = Shortcut.of(node, self.program) if self.correct else None
        evidence = reader.empty()
        for values, pruned, first in zip(self.dense, self.pruned, self.starts, strict=True):
            source: Tensor = ChainMap(pruned, values)[reader.how.input]
            wanted: Tensor = values[reader.how.target]
            drift = shortcut.drift(values, pruned, wanted) if shortcut else None
            reader.gather(evidence, source, wanted if drift is None else wanted + drift, first)
        return evidence
