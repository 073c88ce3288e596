"""The constants that an op needs when its tensors have lost positions: sizes, places, groups, scales.

A corrector is a function ``(site) -> dict`` of the arguments that change, by the names in the op's schema. What it
gives is tried on positions before it is believed (see ``rewrite``), so that a corrector may be plain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.fx import Node

from workbench.graph.call import op_name
from workbench.graph.survivors import Kept, Survivors

Corrector = Callable[["Site"], dict[str, Any]]
CORRECTORS: dict[str, Corrector] = {}


@dataclass(frozen=True)
class Size:
    """A size that was given (a number, or the node that computes it from the batch), and the number it must be now."""

    given: Any
    now: int


@dataclass(frozen=True)
class Site:
    """A node whose tensors lose positions: its arguments by name, and what stays of each value."""

    node: Node
    arguments: dict[str, Any]
    survivors: Survivors

    @property
    def op(self) -> str:
        """The op's name."""
        return op_name(self.node)

    def number(self, given: Any) -> Any:
        """An argument as the number that it was at the batch of the example."""
        return self.survivors.provenance.run.numbers[given.name] if isinstance(given, Node) else given

    @property
    def shape(self) -> list[int]:
        """What stays of the result."""
        return self.survivors.shape(self.node.name)

    def before(self, name: str) -> Sequence[int]:
        """The shape of a tensor argument as it was."""
        shape: Sequence[int] = self.survivors.provenance.run.shapes[self.arguments[name].name]
        return shape

    def after(self, name: str) -> list[int]:
        """What stays of a tensor argument."""
        return self.survivors.shape(self.arguments[name].name)

    def kept(self, name: str, dim: int) -> Tensor | None:
        """The positions of a tensor argument that stay along a dimension; None where all do."""
        kept: Kept = self.survivors.of(self.arguments[name].name)
        return kept.get(dim)


def corrects(*ops: str) -> Callable[[Corrector], Corrector]:
    """Register a corrector for ATen ops."""

    def register(function: Corrector) -> Corrector:
        CORRECTORS.update(dict.fromkeys(ops, function))
        return function

    return register


@corrects(
    *"view reshape _unsafe_view _reshape_alias expand broadcast_to zeros ones full empty rand randn".split(),
    *"new_zeros new_ones new_full new_empty".split(),
)
def sizes(site: Site) -> dict[str, Any]:
    """Sizes become those of what stays; -1 stays."""
    name = "shape" if "shape" in site.arguments else "size"
    old, new = site.arguments[name], site.shape
    return {name: [given if given == -1 else Size(given, now) for given, now in zip(old, new, strict=True)]}


@corrects("unflatten")
def parts(site: Site) -> dict[str, Any]:
    """The sizes that one dimension is taken apart into; -1 stays."""
    dim, _ = _dim(site, "self")
    old = site.arguments["sizes"]
    new = site.shape[dim : dim + len(old)]
    return {"sizes": [given if given == -1 else Size(given, now) for given, now in zip(old, new, strict=True)]}


@corrects("slice", "slice_scatter")
def window(site: Site) -> dict[str, Any]:
    """Start and end count what stays before them; "from the first" and "to the last" hold at any size."""
    dim, size = _dim(site, "self")
    kept = site.kept("self", dim)
    changed: dict[str, Any] = {}
    for name, default in (("start", 0), ("end", size)):
        given = site.arguments[name]
        place = _place(site.number(given), size, default)
        if kept is not None and place != default:
            now = int((kept < place).sum())
            changed[name] = Size(given, now) if isinstance(given, Node) else now
    return changed


@corrects("select", "select_scatter")
def one(site: Site) -> dict[str, Any]:
    """The place of one index among those that stay."""
    dim, size = _dim(site, "self")
    kept = site.kept("self", dim)
    return {} if kept is None else {"index": int((kept < site.arguments["index"] % size).sum())}


@corrects("split", "split_with_sizes", "chunk", "tensor_split")
def pieces(site: Site) -> dict[str, Any]:
    """All become ``split_with_sizes``; each piece is as long as what stays of it."""
    dim, _ = _dim(site, "self")
    if site.kept("self", dim) is None:
        return {}
    shapes = site.survivors.provenance.run.shapes[site.node.name]
    each = site.survivors.each(site.node.name)
    return {"split_sizes": [Survivors.shrunk(shape, kept)[dim] for shape, kept in zip(shapes, each, strict=True)]}


@corrects("constant_pad_nd", "pad")
def padding(site: Site) -> dict[str, Any]:
    """As much padding as stays of it on either side."""
    pad, before = list(site.arguments["pad"]), site.before("self")
    kept = site.survivors.of(site.node.name)
    for place in range(0, len(pad), 2):
        dim = len(before) - 1 - place // 2
        if dim in kept:
            left, inside = max(pad[place], 0), before[dim]
            pad[place] = int((kept[dim] < left).sum())
            pad[place + 1] = int((kept[dim] >= left + inside).sum())
    return {"pad": pad}


@corrects("roll")
def shift(site: Site) -> dict[str, Any]:
    """The position that comes first now."""
    shape, dims = site.before("self"), site.arguments["dims"]
    shifts = list(site.arguments["shifts"])
    for place, dim in enumerate(dims):
        kept = site.kept("self", dim % len(shape))
        if kept is not None:
            shifts[place] = int((kept >= shape[dim] - shifts[place] % shape[dim]).sum())
    return {"shifts": shifts}


@corrects("conv1d", "conv2d", "conv3d")
def blocks(site: Site) -> dict[str, Any]:
    """As many groups as the input has blocks."""
    return {"groups": site.after("input")[1] // site.after("weight")[1]}


@corrects("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def transposed_blocks(site: Site) -> dict[str, Any]:
    """As many groups as the output has blocks."""
    return {"groups": site.shape[1] // site.after("weight")[1]}


@corrects("layer_norm", "rms_norm", "native_layer_norm", "_fused_rms_norm")
def normalized(site: Site) -> dict[str, Any]:
    """The shape of what is normalised now."""
    return {"normalized_shape": site.after("input")[-len(site.arguments["normalized_shape"]) :]}


@corrects("group_norm", "native_group_norm")
def norm_groups(site: Site) -> dict[str, Any]:
    """Whole groups left."""
    name = "num_groups" if "num_groups" in site.arguments else "group"
    before, after = site.before("input")[1], site.after("input")[1]
    changed = {name: site.arguments[name] * after // before if site.arguments[name] > 1 else 1}
    return changed if name == "num_groups" else changed | {"C": after}


@corrects("scaled_dot_product_attention")
def scale(site: Site) -> dict[str, Any]:
    """The scale stays that of the original width of a head."""
    given = site.arguments["scale"]
    return {"scale": site.before("query")[-1] ** -0.5 if given is None else given}


def _dim(site: Site, name: str) -> tuple[int, int]:
    shape = site.before(name)
    dim = site.arguments["dim"] % len(shape)
    return dim, shape[dim]


def _place(given: Any, size: int, default: int) -> int:
    if given is None:
        return default
    return min(max(given + size if given < 0 else given, 0), size)
