"""Which layers of a model can be factorised, by which methods, and why others cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from torch import nn

from workbench.blocks import Blocks
from workbench.factorize.layers import KINDS, Form
from workbench.factorize.shape import Method, Shape, Stage, macs_of, positions_of
from workbench.factorize.standing import LOOKED_AT, replaceable
from workbench.graph.call import layer_of
from workbench.graph.gather import Gathered
from workbench.graph.modules import HOOKS
from workbench.graph.trace import ChannelGraph, Layer


@dataclass(frozen=True)
class Site:
    """A layer that can be factorised, and how often its stages are applied to a sample (``positions_of``)."""

    layer: Layer
    shape: Shape
    methods: tuple[Method, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    rows: int

    def positions(self, stages: Sequence[Stage]) -> list[int]:
        """How often each stage is applied to one sample."""
        return positions_of(stages, self.before, self.after, self.rows)

    def cost(self, form: Form) -> int:
        """Multiplications of a form for one sample."""
        stages = form.method.stages(self.shape, form.rank)
        return macs_of(self.shape, stages, self.before, self.after, self.rows)


@dataclass(frozen=True)
class Left:
    """A layer that keeps its rank, and why."""

    layer: str
    why: str

    def to_dict(self) -> dict[str, str]:
        """As ``Frozen`` says it, for people."""
        return {"what": f"the rank of {self.layer}", "reason": self.why, "remedy": "its channels may still leave"}


def sites_of(graph: ChannelGraph, methods: Sequence[Method]) -> tuple[tuple[Site, ...], tuple[Left, ...]]:
    """The layers that some of the methods can factorise, in the order they run, and those that none can."""
    sites, left = [], []
    own = {layer.name: _own(graph, layer) for layer in graph.layers} if methods else {}
    standing = replaceable(graph, [name for name, why in own.items() if not why])
    for layer in graph.layers if methods else ():
        shape = Shape.of(layer.shape, layer.groups)
        whys = {method: method.unfit(shape) for method in methods}
        fit = tuple(method for method, why in whys.items() if not why)
        why = own[layer.name] or ("" if fit else next(iter(whys.values())))
        why = why or ("" if layer.name in standing else LOOKED_AT)
        if why:
            left.append(Left(layer.name, why))
        else:
            sites.append(site_of(graph, layer, fit))
    return tuple(sites), tuple(left)


def fixed(graph: ChannelGraph, layer: Layer) -> str:
    """Why no sequence of layers can stand in this one's place; empty where one can."""
    return _own(graph, layer) or ("" if replaceable(graph, [layer.name]) else LOOKED_AT)


def _own(graph: ChannelGraph, layer: Layer) -> str:
    """Why not, as far as the layer itself tells."""
    if layer.transposed:
        return "it is a transposed convolution, for which no method is known here"
    if not graph.runs_once(layer):
        return "its weight is used more than once"
    module = _module(graph.model, layer.name)
    node = next(node for node in graph.program.nodes if node.name == layer.node)
    called = _module(graph.model, layer_of(node))
    if type(module) not in KINDS or layer.weight != f"{layer.name}.weight" or called is not module:
        return f"its weight is used by a function of {layer_of(node) or 'the model'}, not by a layer's own forward"
    gathers = {member.tensor for group in graph.groups for member in group.members if member.gather}
    if isinstance(module, Gathered) or layer.weight in gathers:
        return "it picks its inputs"
    if any(getattr(module, hooks) for hooks in HOOKS):
        return "it has hooks"
    if Blocks.of(layer, graph) is not None:
        return f"its {layer.shape[1:].numel():,} columns are too many for second moments"
    return ""


def _module(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def site_of(graph: ChannelGraph, layer: Layer, methods: tuple[Method, ...] = ()) -> Site:
    """Where a layer stands, for the methods that fit it."""
    shape = Shape.of(layer.shape, layer.groups)
    if layer.op == "linear":
        return Site(layer, shape, methods, (), (), layer.positions)
    shapes, module = graph.provenance.run.shapes, graph.model.get_submodule(layer.name)
    rank = len(shape.kernel)
    before, after = tuple(shapes[layer.source][-rank:]), tuple(shapes[layer.node][-rank:])
    if isinstance(module, nn.modules.conv._ConvNd) and module.padding_mode != "zeros":  # it reads what is padded
        sides = module._reversed_padding_repeated_twice
        before = tuple(size - sum(sides[2 * d : 2 * d + 2]) for size, d in zip(before, range(rank)[::-1], strict=True))
    return Site(layer, shape, methods, before, after, layer.positions // prod(after))
