"""Whether another module can stand in a layer's place: the model's own code may look at the layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from workbench.graph.modes import evaluating
from workbench.graph.trace import ChannelGraph

LOOKED_AT = "the model's own code looks at the layer (its class, its weight), which must stay what it is"


def places_of(model: nn.Module, module: nn.Module) -> list[tuple[nn.Module, str]]:
    """The modules that hold a module, and under which name; it may stand in several places."""
    return [
        (model.get_submodule(path.rpartition(".")[0]), path.rpartition(".")[2])
        for path, other in model.named_modules(remove_duplicate=False) if other is module and path
    ]  # fmt: skip


def replaceable(graph: ChannelGraph, layers: Sequence[str]) -> set[str]:
    """Those of some layers whose place an ``nn.Sequential`` of the same function can take: all are tried at once."""
    modules = {name: graph.model.get_submodule(name) for name in layers}
    with evaluating(graph.model), torch.no_grad():
        wanted = _outputs(graph)
        return _found(graph, modules, wanted)


def _found(graph: ChannelGraph, modules: dict[str, nn.Module], wanted: list[Tensor]) -> set[str]:
    if not modules or _same(graph, list(modules.values()), wanted):
        return {*modules}
    if len(modules) == 1:
        return set()
    half, names = len(modules) // 2, list(modules)
    parts = names[:half], names[half:]
    return set().union(*(_found(graph, {name: modules[name] for name in part}, wanted) for part in parts))


def _same(graph: ChannelGraph, modules: Sequence[nn.Module], wanted: Sequence[Tensor]) -> bool:
    with _wrapped(graph.model, modules):
        try:
            found = _outputs(graph)
        except Exception:  # a forward that asks a layer for what it no longer has raises anything
            return False
    return len(found) == len(wanted) and all(map(_near, found, wanted))


def _near(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    near = torch.finfo(one.dtype).eps ** 0.5 if one.is_floating_point() else 0.0
    return torch.allclose(one, other, rtol=near, atol=near, equal_nan=True)


def _outputs(graph: ChannelGraph) -> list[Tensor]:
    leaves = pytree.tree_leaves(graph.sample(2)(graph.model))
    return [leaf.detach().clone() for leaf in leaves if isinstance(leaf, Tensor)]


@contextmanager
def _wrapped(model: nn.Module, modules: Sequence[nn.Module]) -> Iterator[None]:
    """Each module in an ``nn.Sequential`` of its own, for a while."""
    places = [(*place, module) for module in modules for place in places_of(model, module)]
    try:
        for owner, name, module in places:
            setattr(owner, name, nn.Sequential(module))
        yield
    finally:
        for owner, name, module in places:
            setattr(owner, name, module)
