"""Ops that only move data: they are run on the labels themselves, so that PyTorch computes where indices go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from workbench.graph.call import Call, Operand, op_name
from workbench.graph.labels import NOTHING, Labels, along, flat, reshaped, squash, squashed, varied
from workbench.graph.rules import rule

MOVES = """view reshape _unsafe_view flatten unflatten permute transpose t squeeze unsqueeze expand slice select narrow
flip roll pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle movedim swapaxes repeat repeat_interleave
diagonal rot90 unfold im2col view_as expand_as broadcast_to tile _reshape_alias mT""".split()
SPLITS = "split split_with_sizes chunk unbind tensor_split".split()
BY_PLACES = "index_select gather index embedding take_along_dim".split()
PRODUCTS = "scaled_dot_product_attention matmul bmm einsum".split()
KEEP = "keep the layer that makes it at full width"
STACK = "put the parts together by torch.stack and flatten"


@rule(*MOVES)
def move(call: Call) -> Labels:
    """The op, run on each label of its tensor."""
    moved = call.tensors()[0]
    labels = _arrived(call, [run(call, moved, label) for label in moved.labels])
    return (*labels, *_widened(call, moved.shape)) if call.op == "expand" else labels


@rule("pixel_shuffle")
def pixel_shuffle(call: Call) -> Labels:
    """Channels become places of an image: those that make one channel leave together."""
    moved, after = call.tensors()[0], []
    for old in moved.labels:
        spread: Tensor = run(call, moved, old)
        thin = squash(spread)
        label = spread if thin is None else thin
        apart = call.apart(label, [label.ndim - 2, label.ndim - 1]) if old.ndim - 3 in varied(old) else label
        if apart is None:
            call.freeze(label, "it spreads them over the places of one channel", KEEP)
        else:
            after.append(apart)
    return squashed(after)


@rule("im2col")
def im2col(call: Call) -> Labels:
    """Patches ``[N, C * k * k, places]`` of an image ``[N, C, H, W]``: a channel is k * k neighbouring rows."""
    return _patches(call, lambda atoms, size: atoms.repeat_interleave(size), narrow=(2, 3))


@rule("col2im")
def col2im(call: Call) -> Labels:
    """The image that patches add up to; the k * k rows of a channel leave together."""

    def rows(atoms: Tensor, size: int) -> Tensor:
        blocks = atoms.view(-1, size)
        call.atoms.unite(blocks, blocks[:, :1])
        return blocks[:, 0]

    return _patches(call, rows, narrow=(2,))


def _patches(call: Call, change: Callable[[Tensor, int], Tensor], narrow: Sequence[int]) -> Labels:
    moved = call.tensors()[0]
    channels = len(moved.shape) - 1 - len(narrow)
    found = []
    for label in moved.labels:
        apart = call.apart(label, range(channels + 1, label.ndim))
        if apart is None:
            call.freeze(label, "it slides over this dimension", KEEP)
        elif varied(apart) == (channels,):
            found.append(along(change(flat(apart), prod(call["kernel_size"])), call.shape, channels))
        else:
            call.freeze(label, "it takes patches of each sample", KEEP)
    return squashed(found)


def _widened(call: Call, before: Sequence[int]) -> list[Tensor]:
    """A dimension that ``expand`` makes just to be combined may have any size: indices leave with what they meet."""
    from workbench.graph.rules.elementwise import BINARY

    if any(op_name(user) not in (*BINARY, *PRODUCTS) for user in call.node.users):
        return []
    value = call.node.meta["val"]
    new = value.ndim - len(before)
    return [
        along(call.fresh(dim, size), call.shape, dim)
        for dim, size in enumerate(value.shape)
        if isinstance(size, int) and size > 1 and (dim < new or before[dim - new] == 1)  # the batch is no number
    ]


def _arrived(call: Call, labels: list[Tensor]) -> Labels:
    """The labels of what was moved. An index that is taken alone cannot leave; of two in one place, the first can."""
    kept: dict[tuple[int, ...], Tensor] = {}
    for label in labels:
        thin = squash(label)
        if thin is None and label.numel():
            call.freeze(label, "it takes this index alone", KEEP)
        elif thin is not None and varied(thin) in kept:
            call.freeze(thin, "it joins them with other indices, which can leave", KEEP)
        elif thin is not None:
            kept[varied(thin)] = thin
    return tuple(kept.values())


@rule(*SPLITS)
def split(call: Call) -> list[Labels]:
    """Several results: the op run on each label, then gathered by result."""
    (moved,) = call.tensors()
    runs = [run(call, moved, label) for label in moved.labels]
    return [_arrived(call, [part[place] for part in runs]) for place in range(len(call.shapes))]


@rule("getitem")
def getitem(call: Call) -> Any:
    """One of several results."""
    item = call["0"][call["1"]]
    return item.labels if isinstance(item, Operand) else ()


@rule("constant_pad_nd", "pad")
def pad(call: Call) -> Labels:
    """What is padded is made from nothing: its indices may leave with what they meet."""
    moved = call.tensors()[0]
    width = {len(call.shape) - 1 - place // 2: call["pad"][place - place % 2 : place - place % 2 + 2]
             for place in range(len(call["pad"]))}  # fmt: skip
    labels = []
    for label in moved.labels:
        for dim, (before, after) in width.items():
            if (before or after) and dim in varied(label):
                if before < 0 or after < 0:
                    call.freeze(label, "it cuts off a fixed number", KEEP)
                label = _grown(call, label, dim, before, after)
            elif before or after:
                size = [*label.shape]
                size[dim] += before + after
                label = label.narrow(dim, 0, 1).expand(size)
        labels.append(label)
    return squashed(labels)


def _grown(call: Call, label: Tensor, dim: int, before: int, after: int) -> Tensor:
    """A label along a dimension to whose ends atoms of the op's own are added."""
    fresh = call.fresh(dim, max(before, 0) + max(after, 0))
    shape = [1] * label.ndim
    parts = []
    for piece, size in ((fresh[: max(before, 0)], before), (fresh[max(before, 0) :], after)):
        shape[dim] = max(size, 0)
        wide = [*label.shape]
        wide[dim] = max(size, 0)
        parts.append(piece.view(shape).expand(wide))
    return torch.cat([parts[0], label, parts[1]], dim)


@rule("cat", "concat")
def concatenate(call: Call) -> Labels:
    """Along the joined dimension indices stand side by side; across it they leave together."""
    operands = [operand for operand in call["tensors"] if operand.shape != (0,)]
    return _joined(call, operands, call["dim"] % len(call.shape))


@rule("stack")
def stack(call: Call) -> Labels:
    """A new dimension; across it indices leave together."""
    dim = call["dim"] % len(call.shape)
    operands = [
        Operand(torch.Size([*o.shape[:dim], 1, *o.shape[dim:]]), tuple(label.unsqueeze(dim) for label in o.labels))
        for o in call["tensors"]
    ]
    return _joined(call, operands, dim)


def _joined(call: Call, operands: list[Operand], dim: int) -> Labels:
    joined: list[Tensor] = []
    for place in {varied(label): None for operand in operands for label in operand.labels}:
        parts = [operand.only(*place) for operand in operands]
        if dim in place:
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
            call.freeze(known[0], "it joins a tensor whose size across is fixed", KEEP)
        joined.append(known[0].expand(call.shape))
    return squashed(joined)


@rule(*BY_PLACES)
def pick(call: Call) -> Labels:
    """By known places, the op is run on the labels; by places that depend on the inputs, that dimension freezes."""
    moved = call.tensors()[0]
    places = call.tensors()[1:]
    if call.op == "embedding" and moved.owned:
        for label in moved.labels:
            if varied(label) == (1,):
                call.atoms.make(flat(label))
    if all(place.owned and place.value is not None for place in places):
        return _arrived(call, [_picked(call, moved, label) for label in moved.labels])
    dims = picked_dims(call.op, call.arguments, len(moved.shape))
    passed = []
    for label in moved.labels:
        apart = call.apart(label, dims)
        if apart is None:
            call.freeze(label, "which of them it takes depends on the inputs", KEEP)
        else:
            passed.append(_picked(call, moved, apart))
    return squashed(passed)


def _picked(call: Call, moved: Operand, label: Tensor) -> Tensor:
    """The op run on a label, which takes no memory along dimensions in which it does not vary."""
    if call.op in ("gather", "take_along_dim"):
        return run(call, moved, label.contiguous())
    dims = picked_dims(call.op, call.arguments, len(moved.shape))
    thin = label
    for dim in range(label.ndim):
        if dim not in varied(label) and dim not in dims:
            thin = thin.narrow(dim, 0, 1)
    found: Tensor = run(call, moved, thin.contiguous())
    return found.expand(call.shape)


def picked_dims(op: str, arguments: Mapping[str, Any], rank: int) -> list[int]:
    """The dimensions that an op takes by places."""
    if op == "embedding":
        return [0]
    if op == "index":
        return [dim for dim, place in enumerate(arguments["indices"]) if place is not None]
    return [arguments["dim"] % rank]


@rule("slice_scatter", "select_scatter", "index_put", "copy")
def write(call: Call) -> Labels:
    """A tensor with a part replaced: the part's indices leave with those they replace."""
    from workbench.graph.rules.elementwise import combine

    target, source = call.tensors()[:2]
    if call.op in ("copy", "index_put"):
        return combine(call, [target, source], call.shape) if call.op == "copy" else _frozen(call)
    dim = call["dim"] % len(target.shape)
    labels = list(target.labels)
    for part in source.labels:
        wide = part.unsqueeze(dim) if call.op == "select_scatter" else part
        place = varied(wide)
        match = next((label for label in labels if varied(label) == place), None)
        if match is None:
            call.freeze(part, "it is written into a tensor whose size there is fixed", KEEP)
        else:
            call.atoms.unite(_window(call, match, dim), wide)
    for label in labels:
        places = [varied(p.unsqueeze(dim) if call.op == "select_scatter" else p) for p in source.labels]
        if varied(label) not in (*places, (dim,)) and source.shape.numel() > 1:
            call.freeze(label, "something of fixed size is written into it", KEEP)
    if call.op == "slice_scatter" and call["step"] != 1:  # what stays need not lie evenly any more
        for label in (*labels, *source.labels):
            if dim in varied(label):
                call.freeze(label, f"it is written to at every {call['step']}th place", STACK)
    return tuple(labels)


def _window(call: Call, label: Tensor, dim: int) -> Tensor:
    """The part of a label that is written to."""
    if call.op == "select_scatter":
        return label.narrow(dim, call["index"] % label.shape[dim], 1)
    return torch.ops.aten.slice(label, dim, call["start"], call["end"], call["step"])


def _frozen(call: Call) -> Labels:
    for tensor in call.tensors():
        call.freeze(tensor, "it writes to places that are not known", KEEP)
    return ()


def run(call: Call, moved: Operand, label: Tensor) -> Any:
    """The node's own op with the label in the tensor's place; ``view`` as ``reshape``, as a label has strides of 0."""
    arguments = {name: label if value is moved else _plain(value) for name, value in call.arguments.items()}
    if call.op in ("view", "reshape", "_unsafe_view", "_reshape_alias", "view_as", "flatten", "unflatten"):
        return reshaped(label, call.shape)
    if call.op == "expand_as":
        return label.expand(call.shape)
    if call.op == "embedding":
        return (
            label[arguments["indices"]]
            if isinstance(arguments["indices"], Tensor)
            else label.narrow(0, 0, 1).expand(call.shape)
        )
    return call.node.target(**{name: value for name, value in arguments.items() if value is not None})  # type: ignore[operator]


def _plain(value: Any) -> Any:
    """A tensor argument as the tensor itself: places to index. Unknown ones count only where a label does not vary."""
    if isinstance(value, Operand):
        return torch.zeros(value.shape, dtype=torch.long) if value.value is None else value.value
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
