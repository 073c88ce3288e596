"""``trace``: model and example inputs to a ChannelGraph."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.fx import Node

from workbench.errors import Refused
from workbench.graph.atoms import Reason
from workbench.graph.call import bind, is_batch_norm, op_name
from workbench.graph.gather import with_gathers
from workbench.graph.groups import ChannelGroup, Frozen, find_groups, layer_name
from workbench.graph.inputs import Inputs, content_of
from workbench.graph.part import check_model, part_of, seen_inputs
from workbench.graph.program import Program, export
from workbench.graph.provenance import Provenance, follow

if TYPE_CHECKING:
    import pandas as pd

    from workbench.cost.count import Cost

LAYERS = ("conv1d", "conv2d", "conv3d", "linear", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
PRODUCTS = {"addmm": "mat2", "mm": "mat2", "matmul": "other"}  # x @ weight, and which argument the weight is


@dataclass(frozen=True)
class Layer:
    """An operation with a weight: where it is, and which dimensions of the weight are outputs and inputs.

    A layer without bias may stand before a BN, whose running ``mean`` can take one up: the BN subtracts it, so that a
    bias of b is the same as a mean lower by b.
    """

    name: str
    op: str
    node: str
    weight: str
    bias: str | None
    shape: torch.Size  # of the weight as a convolution's: out, in / groups, kernel...
    positions: int  # how many times a sample the weight is applied
    source: str  # the value that it reads
    groups: int = 1
    mean: str | None = None

    @property
    def transposed(self) -> bool:
        """Whether it is a transposed convolution, whose weight is ``[in, out / groups, kernel...]``."""
        return self.op.startswith("conv_transpose")

    @property
    def product(self) -> bool:
        """Whether it is a plain product of what it reads with a weight ``[in, out]``."""
        return self.op in PRODUCTS

    def turned(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight as a convolution's, ``[out, in / groups, kernel...]``, and such a one as the layer's own again."""
        if self.product:
            return weight.mT
        if not self.transposed:
            return weight
        return turned(weight, self.groups)

    @property
    def channel_dim(self) -> int:
        """The dimension of the channels, of what it reads and of what it makes, from the last: -3 of a conv2d."""
        return 1 - len(self.shape)


def turned(weight: torch.Tensor, groups: int) -> torch.Tensor:
    """A transposed convolution's weight as a convolution's, ``[out, in / groups, kernel...]``, and back again.

    A transposed convolution is one over its input with zeros between, with its kernel backwards.
    """
    return weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1).flip(*range(2, weight.ndim))


@dataclass(frozen=True)
class ChannelGraph:
    """Which indices of which tensors of a model belong together."""

    model: nn.Module = field(repr=False)
    inputs: Inputs = field(repr=False)
    program: Program = field(repr=False)
    provenance: Provenance = field(repr=False)
    groups: tuple[ChannelGroup, ...]
    frozen: tuple[Frozen, ...]
    layers: tuple[Layer, ...]
    whole: nn.Module | None = field(default=None, repr=False)  # what the traced model is a part of
    submodule: str = ""  # which part

    def __repr__(self) -> str:
        units = sum(group.units for group in self.groups)
        return (
            f"ChannelGraph({type(self.model).__name__}: {len(self.layers)} layers, {len(self.groups)} channel groups "
            f"with {units} units, {len(self.frozen)} frozen)"
        )

    def __getitem__(self, name: str) -> ChannelGroup:
        """The group of that name."""
        for group in self.groups:
            if group.name == name:
                return group
        raise KeyError(f"no channel group {name!r}; the groups are {', '.join(g.name for g in self.groups)}")

    @cached_property
    def exact(self) -> tuple[ChannelGroup, ...]:
        """The groups whose removal changes the meaning of no operation."""
        return tuple(group for group in self.groups if not group.approximate)

    @cached_property
    def consumers(self) -> dict[str, tuple[Layer, ...]]:
        """Group name -> the layers that sum over its channels."""
        reads = {g.name: {m.tensor for m in g.members if m.role == "in"} for g in self.groups}
        return {
            name: tuple(layer for layer in self.layers if layer.weight in weights) for name, weights in reads.items()
        }

    def runs_once(self, layer: Layer) -> bool:
        """Whether nothing else reads the same weight: no other layer, no embedding, no function."""
        return self._readers[id(self.provenance.owned[layer.weight])] == 1

    @cached_property
    def _readers(self) -> Counter[int]:
        """How many operations read each owned tensor; tied ones have the same atoms."""
        owned = {place: id(self.provenance.owned[name]) for place, name in self.program.state.items()}
        return Counter(
            tensor for node in self.program.nodes
            for tensor in {owned[used.name] for used in node.all_input_nodes if used.name in owned}
        )  # fmt: skip

    @cached_property
    def parameters(self) -> dict[str, torch.Tensor]:
        """The parameters that the program reads, tied ones once."""
        names = {name for name, _ in self.model.named_parameters()}
        return {name: tensor for name, tensor in self.program.tensors.items() if name in names}

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the operations and of every tensor: changes when the model does."""
        digest = hashlib.sha256()
        for node in self.program.nodes:
            digest.update(f"{node.name} {node.target} {node.args} {node.kwargs}\n".encode())
        for name, tensor in sorted(self.program.tensors.items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(content_of(tensor))
        return f"sha256:{digest.hexdigest()[:16]}"

    def cost(self) -> Cost:
        """What one sample costs."""
        from workbench.cost.count import count

        return count(self.model, self.sample(2))

    def sample(self, count: int) -> Inputs:
        """The example inputs with so many samples; as they were traced where the forward fixes their number."""
        return self.inputs.take(count) if self.program.any_batch else self.inputs

    def winnow(self, kept: Mapping[str, Any]) -> nn.Module:
        """A new model with only the kept units of some groups; see ``workbench.graph.winnow.winnow``."""
        from workbench.graph.winnow import winnow

        return winnow(self, kept)

    def to_frame(self) -> pd.DataFrame:
        """One row a group: units, members, layers that read it."""
        import pandas as pd

        rows = [
            {"group": g.name, "units": g.units, "members": ", ".join(f"{m.tensor}[{m.dim}]" for m in g.members),
             "read by": ", ".join(layer.name for layer in self.consumers[g.name])}
            for g in self.groups
        ]  # fmt: skip
        return pd.DataFrame(rows)

    def _repr_html_(self) -> str:
        from workbench.report import notebook

        rows: list[Any] = self.to_frame().to_dict("records")
        return notebook.graph(repr(self), rows, [frozen.to_dict() for frozen in self.frozen])


def trace(
    model: nn.Module, example_inputs: Any, *, submodule: str = "", gather: Sequence[str] | bool = (),
    head_dim: bool = False,
) -> ChannelGraph:  # fmt: skip
    """Find which channels of a model can leave together.

    Parameters
    ----------
    model : any module ``torch.export`` can follow; it is traced in eval mode and left as it was
    example_inputs : a tensor (the one input), a tuple (positional) or a dict (keyword); batch first
    submodule : trace this part only, on the inputs that it sees while the whole model runs on ``example_inputs``: for
        models that ``torch.export`` cannot follow as a whole
    gather : layers whose input channels shall leave one by one, by an ``index_select`` in front, while who makes them
        keeps all; True for every layer whose inputs cannot leave otherwise
    head_dim : let features of attention heads leave (the same of all heads and of their keys; rotated ones in pairs)
        instead of whole heads; scores keep the scale of the original width

    Raises
    ------
    Refused
        The model cannot be exported.
    ValueError
        There is no such submodule or layer, the forward does not call it, it cannot gather, or no input is a tensor.
    TypeError
        The model is no module, or the inputs are of another kind.

    Examples
    --------
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    >>> trace(model, torch.zeros(1, 3, 9, 9)).groups
    (ChannelGroup(0: 8 units; 0.weight[0], 0.bias[0], 2.weight[1]),)
    """
    check_model(model)
    inputs = Inputs.of(example_inputs)
    if not inputs.tensors():
        raise ValueError(
            f"the example inputs {example_inputs!r} hold no tensor; give a batch, as torch.randn(1, 3, 32, 32)"
        )
    if submodule:
        inside = seen_inputs(model, submodule, inputs)
        part = trace(part_of(model, submodule), inside, gather=gather, head_dim=head_dim)
        return replace(part, whole=model, submodule=submodule)
    program, traced = _exported(model, inputs)
    provenance = follow(program, traced, head_dim)
    groups, frozen = find_groups(provenance)
    layers = _layers(program, provenance, traced.batch or 1)
    frozen = (*frozen, *_idle(model, program))
    return with_gathers(ChannelGraph(model, inputs, program, provenance, groups, frozen, layers), gather)


def _idle(model: nn.Module, program: Program) -> list[Frozen]:
    """Weights that eval mode has no use for, such as those of heads for training: what these read is not known."""
    read = {used.name for node in program.nodes for used in node.all_input_nodes}
    used = {program.tensors[name].data_ptr() for place, name in program.state.items() if place in read}
    weights = [(name, weight) for name, weight in model.named_parameters() if weight.ndim > 1]
    why = "it is not run in eval mode; in training it may read channels that have left"
    remedy = "take the layer out of what is trained afterwards, as by model.aux = None"
    return [
        Frozen(name, 0, len(weight), Reason("forward", name.rpartition(".")[0], why, remedy))
        for name, weight in weights if weight.data_ptr() not in used
    ]  # fmt: skip


def _exported(model: nn.Module, inputs: Inputs) -> tuple[Program, Inputs]:
    """The program, and the inputs it was exported with: two samples, or the caller's where the forward fixes them."""
    twice = inputs.take(2)  # torch.export takes a batch of one for a constant
    try:
        program = export(model, twice)
    except Refused:
        if inputs.batch in (None, 2):
            raise
        return export(model, inputs), inputs
    if program.any_batch or inputs.batch in (None, 2):
        return program, twice
    return export(model, inputs), inputs


def _layers(program: Program, provenance: Provenance, samples: int) -> tuple[Layer, ...]:
    """The convolutions and linear layers whose weight the model owns, in the order they run."""
    found = []
    for node in program.nodes:
        places = _arguments(node)
        if places is None:
            continue
        source, *tensors = places
        weight, bias = (program.state.get(one.name) if isinstance(one, Node) else None for one in tensors)
        if weight is None:
            continue
        op, shape, shapes = op_name(node), program.tensors[weight].shape, provenance.run.shapes
        groups = bind(node, node.args, node.kwargs).get("groups", 1)
        if op in PRODUCTS:
            if len(shape) != 2 or (bias and program.tensors[bias].shape != shape[1:]):
                continue
            shape = torch.Size([shape[1], shape[0]])
        if op.startswith("conv_transpose"):
            positions = shapes[source.name].numel() // samples // shape[0]
            shape = torch.Size([shape[1] * groups, shape[0] // groups, *shape[2:]])
        else:
            positions = shapes[node.name].numel() // samples // shape[0]  # a forward may fold time into the batch
        found.append(
            Layer(
                layer_name(weight), op, node.name, weight, bias, shape, positions, source.name, groups,
                None if bias else _mean_behind(node, program),
            )
        )  # fmt: skip
    return tuple(found)


def _arguments(node: Node) -> tuple[Node, Any, Any] | None:
    """What an operation reads, its weight and its bias; None where it is no layer."""
    op = op_name(node)
    if op not in LAYERS and op not in PRODUCTS:
        return None
    given = bind(node, node.args, node.kwargs)
    if op in LAYERS:
        return given["input"], given["weight"], given["bias"]
    if op != "addmm":
        return given["self"], given[PRODUCTS[op]], None
    return (given["mat1"], given["mat2"], given["self"]) if given["beta"] == given["alpha"] == 1 else None


def _mean_behind(node: Node, program: Program) -> str | None:
    """The running mean of the BN that alone reads an operation, where it is no other's, too."""
    users = list(node.users)
    if len(users) != 1 or not is_batch_norm(users[0]):
        return None
    mean = bind(users[0], users[0].args, users[0].kwargs)["running_mean"]
    return program.state.get(mean.name) if len(mean.users) == 1 else None
