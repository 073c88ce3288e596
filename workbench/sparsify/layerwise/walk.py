"""``prune_layerwise``: every layer in turn, from what the network pruned so far gives it to read."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from workbench.calibrate import MEMORY, ROWS, Batches, Reader
from workbench.graph.inputs import content_of, device_of
from workbench.graph.part import with_part
from workbench.graph.program import compute
from workbench.graph.tensors import set_tensors_
from workbench.graph.trace import ChannelGraph, Layer
from workbench.pair import Pair
from workbench.sparsify.amounts import Amount, amount_of
from workbench.sparsify.layerwise.kept import Kept
from workbench.sparsify.layerwise.outcome import Pruned
from workbench.sparsify.layerwise.problem import Method
from workbench.sparsify.layerwise.sites import Like, chosen
from workbench.sparsify.layerwise.sparse_gpt import SparseGpt
from workbench.sparsify.layerwise.step import MASK, Step, Surgery
from workbench.sparsify.masks import fitting
from workbench.sparsify.patterns import Elements, Pattern
from workbench.sparsify.scopes import Shares
from workbench.sparsify.units import Masks

REFIT = 30  # steps of conjugate gradients

Operate = Callable[[Layer], tuple[dict[str, Tensor], Step]]


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

    pair, device = Pair(graph.program, batches, memory), device_of(graph.program.tensors.values())
    readers = {node: Reader.of(layer, graph, rows, batches.samples, seed) for node, layer in places.items()}

    def operate(layer: Layer) -> tuple[dict[str, Tensor], Step]:
        found = kept.get(layer.name, device)
        if found is None:
            gone = ~masks[layer.weight] if masks and layer.weight in masks else _none(graph, layer)
            evidence = pair.evidence(readers[layer.node], drift=correct)
            found = surgery.operate(layer, evidence, _amount(amount, layer), gone)
            kept.add(layer.name, *found)
        return found

    steps, tensors, chosen_masks = _walked(pair, graph, places, operate, progress)
    pruned = copy.deepcopy(graph.model)
    set_tensors_(pruned, tensors)
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


def _walked(
    pair: Pair, graph: ChannelGraph, layers: Mapping[str, Layer], operate: Operate, progress: bool
) -> tuple[list[Step], dict[str, Tensor], Masks]:
    """Every operation in order, up to the last layer that is pruned: a head's outputs are large, and nobody's."""
    steps: list[Step] = []
    tensors: dict[str, Tensor] = {}
    masks: Masks = {}
    nodes = graph.program.nodes
    last = max(place for place, node in enumerate(nodes) if node.name in layers)
    for node in tqdm(nodes[: last + 1], "prune", disable=not progress, unit="op"):
        pair.run(node)
        layer = layers.get(node.name)
        if layer is not None:
            changed, step = operate(layer)
            masks[layer.weight] = changed.pop(MASK)
            steps.append(step)
            tensors |= changed
            pair.take(changed)
        if any(pair.differs(used.name) for used in node.all_input_nodes):
            pair.follow(node, partial(compute, node))
        pair.forget(node)
    return steps, tensors, masks
