"""Ops that sum products over shared dimensions: convolutions, linear layers, matrix products, einsum, attention."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from torch import Tensor

from workbench.graph.atoms import FIXED
from workbench.graph.call import Call, Operand
from workbench.graph.labels import Labels, along, core, flat, resized, squashed, varied
from workbench.graph.rules import rule

KEEP = "keep the layers that make them at full width"


def contract(call: Call, operands: Sequence[Operand], spec: Sequence[str], result: str, shape: Sequence[int]) -> Labels:
    """The labels of a sum of products, written as in einsum: one letter a dimension.

    A letter that the result lacks is summed over: what two operands have there leaves together. A letter that several
    operands and the result share runs along: the same. A label that crosses such a dimension and others keeps whole
    slices of it: of summed dimensions (a head's features), and of the free ones when products of activations run
    along a batch of heads; with ``head_dim``, of that batch, so that a feature of all heads is apart. What a layer's
    own weight is summed over is read, its free dimension is made.
    """
    features = call.atoms.head_dim and not any(operand.owned for operand in operands)
    counts = Counter(letter for letters in spec for letter in set(letters))
    shared = {letter for letter, count in counts.items() if count > 1 and letter in result}
    found: dict[str, list[tuple[int, Tensor]]] = {}
    passed: list[Tensor] = []
    for number, (operand, letters) in enumerate(zip(operands, spec, strict=True)):
        summed = {dim for dim, letter in enumerate(letters) if letter not in result}
        batch = {dim for dim, letter in enumerate(letters) if letter in shared}
        for label in operand.labels:
            if features and set(varied(label)) & batch and set(varied(label)) - batch:
                label = _reduced(call, label, batch)
            if set(varied(label)) - summed:
                label = _reduced(call, label, summed)  # the same label, of whole slices
            if set(varied(label)) & batch and set(varied(label)) - batch:
                label = _reduced(call, label, set(range(len(letters))) - batch)
            place = varied(label)
            if len(place) == 1:
                found.setdefault(letters[place[0]], []).append((number, flat(label)))
            else:
                passed.append(_moved(label, letters, result, shape))
    labels = [*passed]
    for letter, parts in found.items():
        _meet(call, operands, spec, letter, parts)
        if letter in result:
            labels.append(along(parts[0][1], shape, result.index(letter)))
        if letter not in result and not any(operands[number].owned for number, _ in parts):
            places = [(operands[n].name, spec[n].index(letter)) for n, _ in parts if operands[n].name]
            call.atoms.products.setdefault(call.node.name, set()).update(places[:1])
        for number, atoms in parts:
            if operands[number].owned and not all(operand.owned for operand in operands):
                (call.atoms.make if letter in result else call.atoms.consume)(atoms)
            elif operands[number].owned and letter not in result:  # a weight is computed, and depends on all of them
                call.approximates(atoms)
    return squashed(labels)


def _reduced(call: Call, label: Tensor, dims: set[int]) -> Tensor:
    """A label that varies along other dimensions, too, without these."""
    found = call.apart(label, dims)
    assert found is not None
    return found


def _meet(
    call: Call, operands: Sequence[Operand], spec: Sequence[str], letter: str, parts: list[tuple[int, Tensor]]
) -> None:
    """All operands that have a letter lose the same indices of it; one whose size there is fixed freezes the others."""
    for _, atoms in parts[1:]:
        call.atoms.unite(parts[0][1], atoms)
    has = {number for number, _ in parts}
    for number, (operand, letters) in enumerate(zip(operands, spec, strict=True)):
        if number not in has and letter in letters and operand.shape[letters.index(letter)] > 1:
            for _, atoms in parts:
                call.freeze(atoms, *FIXED)


def _moved(label: Tensor, letters: str, result: str, shape: Sequence[int]) -> Tensor:
    """A label over several free dimensions, where the result has them."""
    kept = [dim for dim, letter in enumerate(letters) if letter in result]
    thin = core(label)
    for dim in reversed(range(len(letters))):
        if dim not in kept:
            thin = thin.select(dim, 0)
    order = sorted(range(len(kept)), key=lambda place: result.index(letters[kept[place]]))
    thin = thin.permute(order)
    present = {letters[dim] for dim in kept}
    for place, letter in enumerate(result):
        if letter not in present:
            thin = thin.unsqueeze(place)
    return thin.expand(tuple(shape))


@rule("linear")
def linear(call: Call) -> Labels:
    """Weight ``[out, in]``; features are the last dimension, all others pass through."""
    rank = len(call["input"].shape)
    outer = LETTERS[: rank - 1]
    labels = contract(call, [call["input"], call["weight"]], [outer + "I", "OI"], outer + "O", call.shape)
    return _with_bias(call, labels, rank - 1)


@rule("matmul", "mm", "bmm", "mv", "dot", "vdot")
def matmul(call: Call) -> Labels:
    """The last dimension of the left with the last but one of the right."""
    left, right = call.tensors()
    return _product(call, left, right, call.shape)


@rule("addmm", "baddbmm")
def addmm(call: Call) -> Labels:
    """A product with something added."""
    from workbench.graph.rules.elementwise import combine

    added, left, right = call.tensors()
    labels = _product(call, left, right, call.shape)
    return combine(call, [added, Operand(call.shape, labels)], call.shape)


def _product(call: Call, left: Operand, right: Operand, shape: Sequence[int]) -> Labels:
    batch = max(len(left.shape), len(right.shape)) - 2
    outer = LETTERS[: max(batch, 0)]
    spec = [_matrix(outer, left, "MK", "K"), _matrix(outer, right, "KN", "K")]
    result = outer + ("M" if "M" in spec[0] else "") + ("N" if "N" in spec[1] else "")
    return contract(call, [left, right], spec, result, shape)


def _matrix(outer: str, operand: Operand, matrix: str, vector: str) -> str:
    rank = len(operand.shape)
    return vector if rank == 1 else outer[len(outer) - (rank - 2) :] + matrix


@rule("einsum")
def einsum(call: Call) -> Labels:
    """As written; an ellipsis stands for the dimensions on the left that are not named."""
    operands: list[Operand] = call["tensors"]
    left, _, right = call["equation"].replace(" ", "").partition("->")
    spec = left.split(",")
    if not right and "->" not in call["equation"]:
        counts = Counter(left.replace(",", "").replace(".", ""))
        right = ("..." if "..." in left else "") + "".join(
            sorted(letter for letter, count in counts.items() if count == 1)
        )
    spare = [letter for letter in LETTERS if letter not in left]
    hidden = max(len(o.shape) - len(s.replace("...", "")) for o, s in zip(operands, spec, strict=True))
    dots = "".join(spare[:hidden])
    full = [
        s.replace("...", dots[len(dots) - (len(o.shape) - len(s.replace("...", ""))) :] if "..." in s else "")
        for o, s in zip(operands, spec, strict=True)
    ]
    if any(len(set(letters)) < len(letters) for letters in full):
        for operand in operands:
            call.freeze(operand, "it takes a diagonal", KEEP)
        return ()
    return contract(call, operands, full, right.replace("...", dots), call.shape)


@rule("scaled_dot_product_attention")
def attention(call: Call) -> Labels:
    """Queries ``[..., L, d]`` against keys ``[..., S, d]``, values ``[..., S, e]``; whole heads leave."""
    query, key, value = call["query"], call["key"], call["value"]
    if call.get("enable_gqa") and key.shape[-3] != query.shape[-3]:
        key, value = (_repeated(operand, query.shape[-3]) for operand in (key, value))
    outer = LETTERS[: len(query.shape) - 2]
    scores_shape = (*query.shape[:-1], key.shape[-2])
    scores = contract(call, [query, key], [outer + "LD", outer + "SD"], outer + "LS", scores_shape)
    mask = call.get("attn_mask")
    if isinstance(mask, Operand):
        from workbench.graph.rules.elementwise import combine

        scores = combine(
            call, [Operand(query.shape[:-1] + key.shape[-2:-1], scores), mask], query.shape[:-1] + key.shape[-2:-1]
        )
    weights = Operand(query.shape[:-1] + key.shape[-2:-1], scores)
    return contract(call, [weights, value], [outer + "LS", outer + "SE"], outer + "LE", call.shape)


def _repeated(operand: Operand, heads: int) -> Operand:
    """Keys or values as grouped-query attention uses them: each head for as many neighbouring query heads."""
    dim = len(operand.shape) - 3
    times = heads // operand.shape[dim]
    shape = (*operand.shape[:dim], heads, *operand.shape[dim + 1 :])
    return Operand(
        operand.shape.__class__(shape), squashed([label.repeat_interleave(times, dim) for label in operand.labels]),
        name=operand.name,
    )  # fmt: skip


@rule("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def convolution(call: Call) -> Labels:
    """Weight ``[out, in / groups, k...]``, transposed ``[in, out / groups, k...]``; channels are dimension 1."""
    weight, groups = call["weight"], call["groups"]
    transposed = call.op.startswith("conv_transpose")
    rows, columns = _axis(weight, 0), _axis(weight, 1)
    inputs = _channels(call)
    outer, inner = (columns, rows) if transposed else (rows, columns)  # along the output, along the input
    if groups == 1:
        _read(call, inputs, inner)
        return _made(call, outer)
    if weight.shape[0] == groups if transposed else weight.shape[1] == 1:
        return _depthwise(call, inputs, rows, groups)
    if weight.shape[1] == 1 if transposed else weight.shape[0] == groups:
        return _narrowing(call, inputs, rows, groups)
    return _blocks(call, inputs, outer, inner, groups, transposed)


def _depthwise(call: Call, inputs: Tensor | None, rows: Tensor | None, groups: int) -> Labels:
    """Input channel c makes outputs k c to k c + k - 1; transposed, a weight holds those in dimension 1."""
    if rows is None:
        return ()
    if len(rows) < call.shape[1]:
        rows = rows.repeat_interleave(call.shape[1] // groups)
    if inputs is None:
        call.freeze(rows, "its input channels are fixed, and a depthwise layer keeps them", KEEP)
    else:
        call.atoms.unite(rows.view(groups, -1), inputs[:, None])
    return _made(call, rows)


def _narrowing(call: Call, inputs: Tensor | None, rows: Tensor | None, groups: int) -> Labels:
    """Each block of inputs makes a single output, and leaves with it."""
    if rows is None:
        return ()
    outputs = rows.view(groups, -1)[:, 0]  # a transposed weight has a row for each input
    call.atoms.unite(rows.view(groups, -1), outputs[:, None])
    if inputs is None:
        call.freeze(outputs, "its input channels are fixed, and each block of them makes one output", KEEP)
    else:
        call.atoms.unite(inputs.view(groups, -1), outputs[:, None])
    return _made(call, outputs)


def _blocks(
    call: Call, inputs: Tensor | None, outer: Tensor | None, inner: Tensor | None, groups: int, transposed: bool
) -> Labels:
    """Grouped: place j of every block is one unit, of the inputs and of the outputs each.

    The dimension of the weight that spans all blocks holds block b's place j at index b * size + j; the other is
    shared by the blocks.
    """
    wide, narrow = (inner, outer) if transposed else (outer, inner)
    if wide is not None:
        blocks = wide.view(groups, -1)
        call.atoms.unite(blocks, blocks[:1])
    if inputs is not None:
        blocks = inputs.view(groups, -1)
        call.atoms.unite(blocks, blocks[:1])
    if transposed:
        _read(call, inputs, wide)
        return _made(call, None if narrow is None else narrow.repeat(groups), marks=narrow)
    _read(call, inputs, None if narrow is None else narrow.repeat(groups), marks=narrow)
    return _made(call, wide)


def _axis(weight: Operand, dim: int) -> Tensor | None:
    label = weight.only(dim)
    return None if label is None else flat(label)


def _channels(call: Call) -> Tensor | None:
    """The atoms of the input channels, None where their number is fixed; what else it slides over freezes."""
    slid = set(range(2, len(call["input"].shape)))
    found = None
    for label in call["input"].labels:
        kept = call.apart(label, slid)
        if kept is None:
            call.freeze(label, "it slides over this dimension", KEEP)
        elif varied(kept) == (1,):
            found = flat(kept)
    return found


def _read(call: Call, inputs: Tensor | None, inner: Tensor | None, marks: Tensor | None = None) -> None:
    """Input channels and the weight's indices for them leave together."""
    if inner is not None:
        call.atoms.consume(inner if marks is None else marks)
        if inputs is not None:
            call.atoms.unite(inputs, inner)
        else:
            call.freeze(inner, "its input channels are fixed", KEEP)
    elif inputs is not None:
        call.freeze(inputs, "it reads them with a weight that cannot shrink", KEEP)


def _made(call: Call, outer: Tensor | None, marks: Tensor | None = None) -> Labels:
    """Output channels, which the bias shares."""
    if outer is None:
        return ()
    call.atoms.make(outer if marks is None else marks)
    return _with_bias(call, (along(outer, call.shape, 1),), 1)


def _with_bias(call: Call, labels: Labels, dim: int) -> Labels:
    from workbench.graph.rules.elementwise import combine

    bias = call.get("bias")
    if not isinstance(bias, Operand):
        return labels
    wide = tuple(along(flat(label), call.shape, dim) for label in bias.labels)
    shape = tuple(size if place == dim else 1 for place, size in enumerate(call.shape))
    thin = tuple(resized(label, shape) for label in wide)
    return combine(call, [Operand(call.shape, labels), Operand(call.shape.__class__(shape), thin)], call.shape)


LETTERS = "abcdefghijklmnopqrstuvwxyz"
