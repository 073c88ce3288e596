"""Winnowing: removes units of channel groups for real.

Two ways lead to the smaller model. The short one slices the tensors of a copy and corrects the modules that hold
them: the class stays. Where the forward holds sizes of its own, the exported graph is rewritten instead. Either is
returned only where it computes what the original computes with the removed units zeroed, at another batch size than
the traced one.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from workbench.errors import Refused
from workbench.graph.comparison import differences
from workbench.graph.fold import fold
from workbench.graph.gather import gather_
from workbench.graph.groups import Member
from workbench.graph.masked import survivors
from workbench.graph.part import with_part
from workbench.graph.record import Cut, Record, recorded, remember
from workbench.graph.resize import resize
from workbench.graph.rewrite import rewrite
from workbench.graph.tensors import set_tensors_, tensors_of

if TYPE_CHECKING:
    from workbench.graph.trace import ChannelGraph

COARSE = 1e-2  # the root of float16's precision is 0.03, of float32's 0.0003
EXACT = 1e-5  # relative, in float64, of a forward that may take a norm in float32


def winnow(graph: ChannelGraph, kept: Mapping[str, Sequence[int]]) -> nn.Module:
    """A new model with only the kept units; groups that are not named stay whole. The caller's model is untouched.

    Its class is the original's where the forward follows its tensors, else a ``torch.fx.GraphModule``. What constant
    channels contribute (behind a BN with scale 0) moves into the biases of the layers that read them where that is
    exact; ``verify`` lists where it is not.

    Raises
    ------
    KeyError
        There is no such group.
    ValueError
        A unit does not exist, or a group would lose all its units.
    Refused
        An operation cannot give what stays, or a layer would read nothing.

    Examples
    --------
    >>> from workbench.graph.trace import trace
    >>> graph = trace(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(1, 3))
    >>> winnow(graph, {"0": [0, 1, 5]})[0]
    Linear(in_features=3, out_features=3, bias=True)
    """
    small = smaller(graph, graph.model, record_of(graph, kept))
    if graph.whole is None:
        return small
    record = recorded(small)
    assert record is not None
    whole = with_part(graph.whole, graph.submodule, small)
    return remember(whole, replace(record, submodule=graph.submodule))


def smaller(graph: ChannelGraph, model: nn.Module, record: Record) -> nn.Module:
    """A smaller copy of a model: of the graph's own, or of one with other values in the same tensors."""
    if not record.cuts:
        return remember(copy.deepcopy(model), record)
    biases, lost = fold(graph, tensors_of(model, graph), record.cuts)
    record = replace(record, lost=lost)
    if biases:
        model = copy.deepcopy(model)
        set_tensors_(model, biases)
    shrunk = _shrunk(graph, model, record)
    if shrunk is not None:
        return remember(shrunk, record)
    rewritten = rebuilt(graph, model, record)
    wrong = "the smaller model gives other numbers than the original with these units zeroed"
    try:
        wrong = "" if _agrees(graph, rewritten, record) else wrong
    except RuntimeError as error:
        wrong = f"the smaller model does not run ({str(error).splitlines()[0]})"
    if wrong:
        remedy = "leave some of these groups at full width, and report this"
        raise Refused("rewrite", type(model).__name__, wrong, remedy)
    return remember(rewritten, replace(record, rewritten=True))


def _shrunk(graph: ChannelGraph, model: nn.Module, record: Record) -> nn.Module | None:
    """A copy with smaller tensors, where its forward follows them."""
    try:
        small = cut_model(model, record.cuts)
        return small if _agrees(graph, small, record) else None
    except Exception:  # the forward holds sizes that the smaller tensors contradict; it raises anything
        return None


def rebuilt(graph: ChannelGraph, model: nn.Module, record: Record) -> nn.Module:
    """The rewritten model, unchecked: from the model itself, or from any with tensors of the same shapes."""
    small = _cut(tensors_of(model, graph), record.cuts)
    gathered = {cut.tensor: cut.kept for cut in record.cuts if cut.gather}
    return rewrite(model, graph.program, survivors(graph.provenance, record.cuts), small, gathered)


def _agrees(graph: ChannelGraph, small: nn.Module, record: Record) -> bool:
    """Whether all layers compute what they should, at another batch size than the traced one, no unit being dead.

    Rounding stays far below the root of the precision, another order of channels far above. Some networks amplify
    rounding; they are looked at in float64, where the forward allows that. So are all in half precision, whose root is
    so large that a wrong scale of attention would pass.
    """

    def within(some: nn.Module, bound: float, precise: bool) -> bool:
        found = differences(graph, some, record, inputs, precise=precise, lossless=True)
        return all(error < bound for _, error in found)

    inputs = graph.sample(3).map(lambda t: torch.rand_like(t) if t.is_floating_point() else t)  # zeros would hide much
    floats = [tensor for tensor in graph.program.tensors.values() if tensor.is_floating_point()]
    allowed = max(torch.finfo(tensor.dtype).eps for tensor in floats) ** 0.5
    half = allowed > COARSE
    if not half and within(small, allowed, precise=False):
        return True
    try:
        return within(copy.deepcopy(small).double(), min(allowed**2, EXACT), precise=True)
    except RuntimeError:
        return half and within(small, allowed, precise=False)


def record_of(graph: ChannelGraph, kept: Mapping[str, Sequence[int]]) -> Record:
    """The cuts of tensors that keep only these units."""
    removed: dict[tuple[str, int], set[int]] = {}
    members: dict[tuple[str, int], Member] = {}
    approximate: dict[str, None] = {}
    for name, stay in kept.items():
        group = graph[name]
        units = _checked(name, group.units, stay)
        if len(units) < group.units:
            approximate |= dict.fromkeys(group.approximate)
        for member in group.members:
            place = member.tensor, member.dim
            gone = {index for unit in set(range(group.units)) - units for index in member.indices[unit]}
            removed[place] = removed.get(place, set()) | gone
            members[place] = member
    cuts = tuple(
        Cut(tensor, dim, size, tuple(sorted(set(range(size)) - gone)), member.role, member.gather)
        for (tensor, dim), gone in removed.items()
        for member in [members[tensor, dim]]
        for size in [graph.program.tensors[tensor].shape[dim]]
        if gone
    )
    for cut in cuts:
        if not cut.kept:
            raise Refused(
                "slice", cut.tensor, f"all {cut.size} channels of its dimension {cut.dim} would leave", "keep one"
            )
    return Record(cuts, tuple(approximate))


def _checked(name: str, count: int, stay: Sequence[int]) -> set[int]:
    units = {int(unit) for unit in stay}
    wrong = sorted(unit for unit in units if not 0 <= unit < count)
    if wrong:
        raise ValueError(f"group {name!r} has units 0 to {count - 1}, not {wrong[0]}")
    if not units:
        raise ValueError(f"group {name!r} would lose all its {count} units; keep at least one")
    return units


def _cut(tensors: Mapping[str, Tensor], cuts: Sequence[Cut]) -> dict[str, Tensor]:
    """The smaller tensors; tied ones stay one object."""
    by_tensor = _by_tensor(cuts)
    done: dict[int, Tensor] = {}
    for name, tensor in tensors.items():
        if id(tensor) not in done:
            done[id(tensor)] = _cut_tensor(tensor, by_tensor.get(name, []))
    return {name: done[id(tensor)] for name, tensor in tensors.items()}


def _by_tensor(cuts: Sequence[Cut]) -> dict[str, list[Cut]]:
    found: dict[str, list[Cut]] = {}
    for cut in cuts:
        found.setdefault(cut.tensor, []).append(cut)
    return found


def cut_model(model: nn.Module, cuts: Sequence[Cut]) -> nn.Module:
    """A deep copy of a model with its tensors cut and its modules corrected."""
    small = copy.deepcopy(model)
    replaced: dict[int, Tensor] = {}  # tied tensors stay one object
    for name, some in _by_tensor(cuts).items():
        owner, _, leaf = name.rpartition(".")
        module = small.get_submodule(owner)
        old = getattr(module, leaf)
        if id(old) not in replaced:
            replaced[id(old)] = _cut_tensor(old, some)
        setattr(module, leaf, replaced[id(old)])
    for owner in dict.fromkeys(cut.tensor.rpartition(".")[0] for cut in cuts):
        resize(small.get_submodule(owner))
    for cut in cuts:
        if cut.gather:
            gather_(small.get_submodule(cut.tensor.rpartition(".")[0]), cut.kept)
    return small


def _cut_tensor(tensor: Tensor, cuts: Sequence[Cut]) -> Tensor:
    with torch.no_grad():
        smaller = tensor.detach()
        for cut in cuts:
            smaller = smaller.index_select(cut.dim, torch.tensor(cut.kept, device=tensor.device))
        smaller = smaller.contiguous() if cuts else smaller.clone()
    return nn.Parameter(smaller, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else smaller
