"""Ops that only move data: they are run on the labels themselves, so that PyTorch computes where indices go."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from workbench.graph.atoms import NOTHING
from workbench.graph.call import Call, Operand
from workbench.graph.labels import Labels, flat, resized, squash, squashed, varied
from workbench.graph.rules import rule

MOVES = """view reshape _unsafe_view flatten unflatten permute transpose t squeeze unsqueeze expand slice select narrow
flip roll pixel_shuffle pixel_unshuffle channel_shuffle movedim swapaxes""".split()
BY_PLACE = "slice select narrow roll channel_shuffle".split()  # their constants would have to change with the width
SPLITS = "split split_with_sizes chunk unbind".split()


@rule(*MOVES)
def move(call: Call) -> Labels:
    """The op, run on each label of its one tensor."""
    (moved,) = call.tensors()
    results = [(label, squash(_run(call, moved, label))) for label in moved.labels]
    for before, after in results:
        if after is not None and len(varied(after)) > len(varied(before)):
            call.freeze(
                before, "it splits these indices by sizes written in the forward", "keep the layer at full width"
            )
        elif call.op in BY_PLACE and (after is None or not torch.equal(flat(before), flat(after))):
            call.freeze(
                before, "it takes these indices by places written in the forward", "keep the layer at full width"
            )
    return tuple(after for _, after in results if after is not None)


@rule(*SPLITS)
def split(call: Call) -> list[Labels]:
    """Several results: the op run on each label, then gathered by result."""
    (moved,) = call.tensors()
    runs = [_run(call, moved, label) for label in moved.labels]
    count = len(call.node.meta["val"])
    return [squashed([run[place] for run in runs]) for place in range(count)]


@rule("getitem")
def getitem(call: Call) -> Any:
    """One of several results."""
    item = call["0"][call["1"]]
    return item.labels if isinstance(item, Operand) else ()


@rule("pad", "constant_pad_nd")
def pad(call: Call) -> Labels:
    """Labels along the padded dimensions freeze, since padding has no index; the others pass."""
    (moved,) = call.tensors()
    padded = {len(call.shape) - 1 - place // 2 for place, amount in enumerate(call["pad"]) if amount}
    crossing = [label for label in moved.labels if padded & set(varied(label))]
    for label in crossing:
        call.freeze(label, "it adds as many as are written in the forward", "keep the layer at full width")
    return tuple(resized(label, call.shape) for label in moved.labels if not padded & set(varied(label)))


@rule("cat")
def concatenate(call: Call) -> Labels:
    """Along the joined dimension indices stand side by side; across it they leave together."""
    operands: list[Operand] = call["tensors"]
    dim = call["dim"] % len(call.shape)
    joined: list[Tensor] = []
    for place in {varied(label): None for operand in operands for label in operand.labels}:
        parts = [operand.only(*place) for operand in operands]
        if dim in place or place == (dim,):
            filled = [
                torch.full(operand.shape, NOTHING, dtype=torch.float64) if part is None else part
                for part, operand in zip(parts, operands, strict=True)
            ]
            joined.append(torch.cat(filled, dim))
            continue
        known = [part.narrow(dim, 0, 1) for part in parts if part is not None]
        for part in known[1:]:
            call.atoms.unite(known[0], part)
        if len(known) < len(parts):
            call.freeze(known[0], "it joins a tensor whose size across is fixed", "keep the layer at full width")
        joined.append(known[0].expand(call.shape))
    return squashed(joined)


def _run(call: Call, moved: Operand, label: Tensor) -> Any:
    """The node's own op with the label in the tensor's place; ``view`` as ``reshape``, as a label has strides of 0."""
    arguments: dict[str, Any] = {name: label if value is moved else value for name, value in call.arguments.items()}
    if call.op in ("view", "_unsafe_view"):
        return label.reshape(arguments["size"])
    return call.node.target(**_positional(call, arguments))  # type: ignore[operator]


def _positional(call: Call, arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value is not None}
