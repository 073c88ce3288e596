"""Layer by layer: what a smaller model computes against the original with the removed units zeroed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from workbench.factorize.replace import folded
from workbench.graph.inputs import Inputs
from workbench.graph.lossless import Lossless
from workbench.graph.masked import masked, run_masked, survivors
from workbench.graph.modes import evaluating
from workbench.graph.modules import safe
from workbench.graph.record import Record
from workbench.graph.survivors import compact
from workbench.graph.trace import ChannelGraph


def differences(
    graph: ChannelGraph, small: nn.Module, record: Record, inputs: Inputs, precise: bool = False,
    lossless: bool = False,
) -> Iterator[tuple[str, float]]:  # fmt: skip
    """The relative difference of every layer's output, by its name, and of the model's, by the empty name.

    ``precise`` computes in float64, for which ``small`` must be a copy in float64; ``lossless`` with activations behind
    which no difference is lost, for both.
    """
    stays = survivors(graph.provenance, record.cuts)
    nodes: dict[str, list[str]] = {}
    for layer in graph.layers:
        nodes.setdefault(safe(layer.name), []).append(layer.node)
    tensors = masked(widened(graph, folded(small, record), record), record.cuts)
    if precise:
        inputs, tensors = inputs.map(_doubled), {name: _doubled(tensor) for name, tensor in tensors.items()}
    whole = {safe(factored.layer) for factored in record.factors}
    mode = _double() if precise else nullcontext()
    alive = Lossless() if lossless else nullcontext()  # type: ignore[no-untyped-call]  # torch gives it no types
    with evaluating(small), torch.no_grad(), _recorded(small, whole) as narrow, mode, alive:
        expected, wide = run_masked(graph.program, stays, inputs, tensors, {layer.node for layer in graph.layers})
        found = inputs(small)
    for name, values in narrow.items():
        if len(nodes.get(name, ())) == len(values):
            for node, value in zip(nodes[name], values, strict=True):
                yield name, relative_error(compact(wide[node], stays.of(node)), value)
    pairs = zip(pytree.tree_leaves(expected), pytree.tree_leaves(found), strict=True)
    yield from (("", relative_error(a, b)) for a, b in pairs if isinstance(a, Tensor))


def widened(graph: ChannelGraph, state: Mapping[str, Tensor], record: Record) -> dict[str, Tensor]:
    """The tensors of a program with a smaller model's values where those stay."""
    kept: dict[str, dict[int, tuple[int, ...]]] = {}
    for cut in record.cuts:
        kept.setdefault(cut.tensor, {})[cut.dim] = cut.kept
    tensors = dict(graph.program.tensors)
    for name, tensor in tensors.items():
        value = state.get(safe(name))
        if value is not None and value.ndim:
            where = [torch.tensor(kept.get(name, {}).get(d, range(s))) for d, s in enumerate(tensor.shape)]
            tensors[name] = tensor.to(value.dtype, copy=True)  # a product of factors may be more precise
            tensors[name][torch.meshgrid(*(w.long().to(tensor.device) for w in where), indexing="ij")] = value
        elif value is not None:
            tensors[name] = value
    return tensors


class _InDouble(TorchDispatchMode):
    """Computes in float64 whatever precision the forward asks for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = pytree.tree_map_only(torch.dtype, _double_type, (args, kwargs or {}))
        if not func._schema.is_mutable:  # a tensor that is no buffer has the precision it was made with
            args, kwargs = pytree.tree_map_only(Tensor, _doubled, (args, kwargs))
        return func(*args, **kwargs)


def _doubled(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _double_type(leaf: torch.dtype) -> torch.dtype:
    return torch.float64 if leaf.is_floating_point else leaf


@contextmanager
def _double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _InDouble():  # type: ignore[no-untyped-call]  # torch gives it no types
            yield
    finally:
        torch.set_default_dtype(before)


def relative_error(expected: Tensor, found: Tensor) -> float:
    """Largest difference over largest magnitude; infinite where the shapes differ."""
    if expected.shape != found.shape:
        return float("inf")
    if expected.numel() == 0:
        return 0.0
    if not expected.is_floating_point():
        return 0.0 if torch.equal(expected, found) else float("inf")
    scale = expected.abs().max().clamp_min(torch.finfo(expected.dtype).tiny)
    return ((expected - found).abs().max() / scale).item()


@contextmanager
def _recorded(model: nn.Module, factored: Collection[str]) -> Any:
    """The outputs of all layers with a weight, by name, one for each call; of factorised ones as a whole."""
    outputs: dict[str, list[Tensor]] = {}

    def hook(name: str) -> Any:
        # a copy: the next operation may write into it
        return lambda _module, _inputs, output: outputs.setdefault(safe(name), []).append(output.clone())

    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    watched = [(n, m) for n, m in model.named_modules() if isinstance(m, kinds) or safe(n) in factored]
    handles = [m.register_forward_hook(hook(n)) for n, m in watched]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
