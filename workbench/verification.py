"""``verify``: does the smaller model compute what the original does with the removed units zeroed?"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate
from torch.utils import _pytree as pytree

from workbench.graph.inputs import Inputs
from workbench.graph.masked import masked, run_masked, survivors
from workbench.graph.modules import safe
from workbench.graph.part import part_of, seen_inputs
from workbench.graph.survivors import compact
from workbench.graph.trace import ChannelGraph, trace
from workbench.graph.winnow import Record, recorded

TOLERANCE = 1e-10  # relative, in float64
LOOSE = 1e-5  # relative, where the forward does not run in float64


@dataclass(frozen=True)
class Verification:
    """The largest relative difference of any layer's output, and whether it is within the tolerance.

    ``approximate`` names norms and reductions over channels some of which left: they are compared with the same ops
    over the channels that stay, which is not what the original computes.
    """

    ok: bool
    worst: float
    layer: str
    tolerance: float = TOLERANCE
    approximate: tuple[str, ...] = ()

    def __repr__(self) -> str:
        verdict = "NOT ok" if not self.ok else "ok but approximate" if self.approximate else "ok"
        place = self.layer or "the output"
        return f"Verification({verdict}: worst {self.worst:.1e} at {place}, allowed {self.tolerance:.0e})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"approximate": list(self.approximate)}


def verify(dense: nn.Module | ChannelGraph, small: nn.Module, example_inputs: Any = None) -> Verification:
    """Compare a smaller model with the original whose removed units are zeroed.

    The smaller model's tensors are put back into the original's shapes; a layer's weights for channels that it no
    longer reads become zero. Both run on the inputs at two batch sizes, in float64 where the forward allows it, and all
    layers' outputs are compared. An input that is constant (zeros) is varied, as it would hide most mistakes.

    Parameters
    ----------
    dense : the model before, or what ``trace`` found of it (which saves tracing it again); it is not changed
    small : what ``winnow``, ``compress`` or ``restore`` made of it
    example_inputs : a tensor, a tuple or a dict, as for ``trace``; by default those of the trace

    Raises
    ------
    ValueError
        ``small`` was not made by the workbench.

    Examples
    --------
    >>> model, x = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(4, 3)
    >>> verify(model, trace(model, x).winnow({"0": range(5)}), x).ok
    True
    """
    record = recorded(small)
    if record is None:
        raise ValueError(
            f"this {type(small).__name__} has no record of what was removed; verify takes a model from winnow"
        )
    graph = dense if isinstance(dense, ChannelGraph) else trace(dense, example_inputs, submodule=record.submodule)
    inputs = graph.inputs
    if example_inputs is not None:
        inputs = seen_inputs(graph.whole or graph.model, record.submodule, Inputs.of(example_inputs))
    comparison = _Comparison(graph, part_of(small, record.submodule), record)
    inputs = inputs.map(_telling)
    try:
        layer, worst = comparison.worst(inputs, precise=True)
        tolerance = TOLERANCE
    except RuntimeError:  # the smaller model's forward may insist on its own precision
        layer, worst = comparison.worst(inputs, precise=False)
        tolerance = LOOSE
    return Verification(worst <= tolerance, worst, layer, tolerance, record.approximate)


def _telling(tensor: Tensor) -> Tensor:
    """An input that is one number everywhere hides most mistakes: it is varied."""
    if not tensor.is_floating_point() or not tensor.numel() or tensor.min() < tensor.max():
        return tensor
    generator = torch.Generator().manual_seed(0)
    return tensor + torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype).to(tensor.device)


@dataclass(frozen=True)
class _Comparison:
    graph: ChannelGraph
    small: nn.Module
    record: Record

    def worst(self, inputs: Inputs, precise: bool) -> tuple[str, float]:
        """The layer with the largest difference at two batch sizes, and that difference."""
        small = _in_double(self.small) if precise else copy.deepcopy(self.small)
        worst, layer = 0.0, ""
        for batch in {inputs.batch or 1, 3} if self.graph.program.any_batch else {2}:
            for name, error in self._errors(small.eval(), inputs.take(batch), precise):
                if not error <= worst:  # also where the error is NaN
                    worst, layer = error, name
        return layer, worst

    def _errors(self, small: nn.Module, inputs: Inputs, precise: bool) -> Iterator[tuple[str, float]]:
        """The relative difference of every layer's output and of the model's."""
        stays = survivors(self.graph.provenance, self.record.cuts)
        nodes: dict[str, list[str]] = {}
        for layer in self.graph.layers:
            nodes.setdefault(safe(layer.name), []).append(layer.node)
        tensors = masked(widened(self.graph, self.small.state_dict(), self.record), self.record.cuts)
        expected, wide = run_masked(
            self.graph.program, stays, inputs, tensors, {layer.node for layer in self.graph.layers}, precise
        )
        if precise:
            inputs = inputs.map(lambda t: t.double() if t.is_floating_point() else t)
        with torch.no_grad(), _recorded(small) as narrow:
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
            tensors[name] = tensor.clone()
            tensors[name][torch.meshgrid(*(w.long().to(tensor.device) for w in where), indexing="ij")] = value
        elif value is not None:
            tensors[name] = value
    return tensors


def _in_double(model: nn.Module) -> nn.Module:
    """A copy that computes in float64; a rewritten graph says so in its constants, too."""
    model = copy.deepcopy(model).double()
    if isinstance(model, fx.GraphModule):
        for node in model.graph.nodes:
            node.args, node.kwargs = map_aggregate((node.args, node.kwargs), _double_type)
        model.recompile()
    return model


def _double_type(leaf: Any) -> Any:
    return torch.float64 if isinstance(leaf, torch.dtype) and leaf.is_floating_point else leaf


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
def _recorded(model: nn.Module) -> Any:
    """The outputs of all layers with a weight, by name, one for each call."""
    outputs: dict[str, list[Tensor]] = {}

    def hook(name: str) -> Any:
        # a copy: the next operation may write into it
        return lambda _module, _inputs, output: outputs.setdefault(safe(name), []).append(output.clone())

    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    handles = [m.register_forward_hook(hook(n)) for n, m in model.named_modules() if isinstance(m, kinds)]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
