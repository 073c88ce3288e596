"""Winnowing: removes units of channel groups for real, by slicing tensors and correcting the modules that hold them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from workbench.errors import Refused
from workbench.graph.inputs import Inputs

if TYPE_CHECKING:
    from workbench.graph.trace import ChannelGraph


@dataclass(frozen=True)
class Cut:
    """One dimension of one tensor and the indices that stay, in order. ``role`` as in ``Member``."""

    tensor: str
    dim: int
    size: int
    kept: tuple[int, ...]
    role: str

    @property
    def removed(self) -> tuple[int, ...]:
        """The indices that leave."""
        return tuple(sorted(set(range(self.size)) - set(self.kept)))


RECORD = "winnowed"  # the attribute of a smaller model that holds its cuts


def winnow(graph: ChannelGraph, kept: Mapping[str, Sequence[int]]) -> nn.Module:
    """A new model with only the kept units; groups that are not named stay whole. The caller's model is untouched.

    Raises
    ------
    KeyError
        There is no such group.
    ValueError
        A unit does not exist, or a group would lose all its units.
    Refused
        The forward holds sizes or places that contradict the smaller tensors, or a layer would read nothing.

    Examples
    --------
    >>> from workbench.graph.trace import trace
    >>> graph = trace(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(1, 3))
    >>> winnow(graph, {"0": [0, 1, 5]})[0]
    Linear(in_features=3, out_features=3, bias=True)
    """
    return shrink(graph.model, cuts_for(graph, kept), graph.inputs)


def shrink(model: nn.Module, cuts: Sequence[Cut], inputs: Inputs) -> nn.Module:
    """A copy of a model with its tensors cut, after a run that shows that its forward follows.

    A size or a place written in the forward shows as a failure or as other numbers: ``Refused``.
    """
    from workbench.verification import masked_model, relative_error

    small = cut_model(model, cuts)
    inputs = inputs.take(3)
    inputs = inputs.map(lambda t: torch.rand_like(t) if t.is_floating_point() else t)  # zeros would hide much
    remedy = "take sizes and places from the tensors in the forward, or leave the groups involved at full width"
    with torch.no_grad():
        expected = inputs(masked_model(model, small, cuts).eval())
        try:
            found = inputs(copy.deepcopy(small).eval())
        except Exception as error:  # a forward raises anything
            why = f"it holds sizes that the smaller tensors contradict ({error})"
            raise Refused("forward", type(small).__name__, why, remedy) from error
    pairs = zip(pytree.tree_leaves(expected), pytree.tree_leaves(found), strict=True)
    # rounding stays far below the root of the precision, another order of channels far above
    if not all(relative_error(a, b) < eps(a) ** 0.5 for a, b in pairs if isinstance(a, Tensor)):
        why = "it takes channels by places that change when others leave, so that the smaller model gives other numbers"
        raise Refused("forward", type(small).__name__, why, remedy)
    return small


def eps(tensor: Tensor) -> float:
    """The precision of a tensor's numbers; 1 for integers."""
    return torch.finfo(tensor.dtype).eps if tensor.is_floating_point() else 1.0


def cuts_for(graph: ChannelGraph, kept: Mapping[str, Sequence[int]]) -> tuple[Cut, ...]:
    """The cuts of tensors that keep only these units."""
    removed: dict[tuple[str, int], set[int]] = {}
    roles: dict[tuple[str, int], str] = {}
    for name, stay in kept.items():
        group = graph[name]
        units = _checked(name, group.units, stay)
        for member in group.members:
            place = member.tensor, member.dim
            gone = {index for unit in set(range(group.units)) - units for index in member.indices[unit]}
            removed[place] = removed.get(place, set()) | gone
            roles[place] = member.role
    cuts = tuple(
        Cut(tensor, dim, size, tuple(sorted(set(range(size)) - gone)), roles[tensor, dim])
        for (tensor, dim), gone in removed.items()
        for size in [graph.program.tensors[tensor].shape[dim]]
        if gone
    )
    for cut in cuts:
        if not cut.kept:
            raise Refused(
                "slice", cut.tensor, f"all {cut.size} channels of its dimension {cut.dim} would leave", "keep one"
            )
    return cuts


def _checked(name: str, count: int, stay: Sequence[int]) -> set[int]:
    units = {int(unit) for unit in stay}
    wrong = sorted(unit for unit in units if not 0 <= unit < count)
    if wrong:
        raise ValueError(f"group {name!r} has units 0 to {count - 1}, not {wrong[0]}")
    if not units:
        raise ValueError(f"group {name!r} would lose all its {count} units; keep at least one")
    return units


def cut_model(model: nn.Module, cuts: Sequence[Cut]) -> nn.Module:
    """A deep copy of a model with its tensors cut, which remembers the cuts for ``verify`` and ``save``."""
    small = copy.deepcopy(model)
    by_tensor: dict[str, list[Cut]] = {}
    for cut in cuts:
        by_tensor.setdefault(cut.tensor, []).append(cut)
    replaced: dict[int, Tensor] = {}  # tied tensors stay one object
    for name, some in by_tensor.items():
        owner, _, leaf = name.rpartition(".")
        module = small.get_submodule(owner)
        old = getattr(module, leaf)
        if id(old) not in replaced:
            replaced[id(old)] = _cut_tensor(old, some)
        setattr(module, leaf, replaced[id(old)])
    for owner in dict.fromkeys(cut.tensor.rpartition(".")[0] for cut in cuts):
        resize(small.get_submodule(owner))
    setattr(small, RECORD, tuple(cuts))
    return small


def _cut_tensor(tensor: Tensor, cuts: Sequence[Cut]) -> Tensor:
    with torch.no_grad():
        smaller = tensor
        for cut in cuts:
            smaller = smaller.index_select(cut.dim, torch.tensor(cut.kept, device=tensor.device))
        smaller = smaller.contiguous()
    return nn.Parameter(smaller, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else smaller


def resize(module: nn.Module) -> None:
    """Make a module's attributes tell the sizes of its tensors; its forward may read them."""
    for kind, correct in SIZES:
        if isinstance(module, kind):
            correct(module)


def _convolution(module: Any) -> None:
    out, per_group = module.weight.shape[:2]
    if module.in_channels == module.groups > 1:  # depthwise: every input channel is a block
        module.groups = out // (module.out_channels // module.groups)
    module.out_channels, module.in_channels = out, per_group * module.groups


def _linear(module: Any) -> None:
    module.out_features, module.in_features = module.weight.shape


def _batch_norm(module: Any) -> None:
    module.num_features = len(module.running_mean if module.weight is None else module.weight)


def _prelu(module: Any) -> None:
    module.num_parameters = len(module.weight)


SIZES: tuple[tuple[type, Callable[[Any], None]], ...] = (
    (nn.modules.conv._ConvNd, _convolution),
    (nn.Linear, _linear),
    (nn.modules.batchnorm._NormBase, _batch_norm),
    (nn.PReLU, _prelu),
)
