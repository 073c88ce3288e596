"""The modules of a rewritten model: real ones where an operation is just their call, else plain holders of tensors."""

from __future__ import annotations

import copy
import keyword
import operator
from collections import OrderedDict
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

from torch import Tensor, fx, nn
from torch.fx import Node

from workbench.graph.call import bind, is_batch_norm, layer_of, op_name
from workbench.graph.chance import FUNCTIONS, is_chance
from workbench.graph.inputs import device_of
from workbench.graph.program import Program
from workbench.graph.resize import resize

PLAIN: dict[type, str] = {
    nn.Conv1d: "conv1d", nn.Conv2d: "conv2d", nn.Conv3d: "conv3d", nn.ConvTranspose1d: "conv_transpose1d",
    nn.ConvTranspose2d: "conv_transpose2d", nn.ConvTranspose3d: "conv_transpose3d", nn.Linear: "linear",
    nn.BatchNorm1d: "batch_norm", nn.BatchNorm2d: "batch_norm", nn.BatchNorm3d: "batch_norm", nn.LSTM: "lstm",
    nn.GRU: "gru", nn.LayerNorm: "layer_norm",
}  # fmt: skip
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")


class Modules:
    """Builds the module tree of a rewritten model under ``root``, with the names of the original."""

    def __init__(self, model: nn.Module, program: Program, tensors: Mapping[str, Tensor]):
        self.model, self.program, self.tensors = model, program, tensors
        self.root = nn.Module()
        self.device = device_of(tensors.values())

    def call(self, node: Node, graph: fx.Graph, new: Callable[[Any], Any]) -> Any:
        """A call of the module whose forward the operation is, or None where it is none or not just that."""
        path = layer_of(node)
        if op_name(node) == "chance":
            return graph.call_module(self._chance(path, *node.args[1:]), (new(node.args[0]),))  # type: ignore[arg-type]
        if not path:
            return None
        module = self.model.get_submodule(path)
        op = "batch_norm" if is_batch_norm(node) else op_name(node)
        if PLAIN.get(type(module)) != op:
            return None
        arguments = bind(node, node.args, node.kwargs)
        if not self._is_call(module, path, arguments):
            return None
        self._place(path, module)
        if isinstance(module, nn.RNNBase):
            return self._recurrent(module, path, arguments, graph, new)
        called = graph.call_module(safe(path), (new(arguments["input"]),))
        return (called,) if op != op_name(node) else called  # the native form returns statistics, too

    def hold(self, name: str) -> str:
        """Make a tensor of the program an attribute of the tree; where it is then."""
        owner = self.root
        *path, leaf = safe(name).split(".")
        for part in path:
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        if not hasattr(owner, leaf):
            tensor = self.tensors[name]
            if isinstance(tensor, nn.Parameter):
                owner.register_parameter(leaf, tensor)
            else:
                own = name in self.model.state_dict()
                owner.register_buffer(leaf, tensor, persistent=own)
        return safe(name)

    def constant(self, name: str, tensor: Tensor) -> str:
        """A tensor that the rewriting needs: no part of the state dict."""
        self.root.register_buffer(name, tensor.to(self.device), persistent=False)
        return name

    def _chance(self, path: str, kind: str, p: float) -> str:
        """The module whose forward a mark stands for, or a new one for a function that the forward calls."""
        module = self.model.get_submodule(path)
        if is_chance(module):
            self._place(path, module)
            return safe(path)
        names = (f"{kind}_{number}" for number in count(1))
        name = next(name for name in names if not hasattr(self.root, name) and not hasattr(self.model, name))
        self.root.add_module(name, FUNCTIONS[kind](p))
        return name

    def _is_call(self, module: nn.Module, path: str, arguments: Mapping[str, Any]) -> bool:
        """Whether the operation's tensors are the module's own, and nothing else happens in it."""
        if getattr(module, "padding_mode", "zeros") != "zeros":
            return False
        if isinstance(module, nn.RNNBase):
            return module.proj_size == 0 and all(self._name(one).startswith(f"{path}.") for one in arguments["params"])
        if isinstance(module, nn.LayerNorm) and not module.elementwise_affine:
            return False
        return all(
            arguments.get(leaf) is None or self._name(arguments[leaf]) == f"{path}.{leaf}"
            for leaf in ("weight", "bias", "running_mean", "running_var")
        )

    def _name(self, node: Any) -> str:
        return self.program.state.get(node.name, "") if isinstance(node, Node) else ""

    def _place(self, path: str, module: nn.Module) -> None:
        """A copy of a module in the tree, with the smaller tensors."""
        owner = self.root
        *parents, leaf = safe(path).split(".")
        for part in parents:
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        if type(owner._modules.get(leaf)) is type(module):
            return
        placed = copy.deepcopy(module)
        for hooks in HOOKS:
            setattr(placed, hooks, OrderedDict())
        for name, _ in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            if f"{path}.{name}" in self.tensors:
                setattr(placed, name, self.tensors[f"{path}.{name}"])
        resize(placed)
        owner.add_module(leaf, placed)

    def _recurrent(
        self, module: nn.RNNBase, path: str, arguments: Mapping[str, Any], graph: fx.Graph, new: Callable[[Any], Any]
    ) -> Any:
        """The op returns its states one by one, the module of an LSTM as a pair."""
        state = new(arguments["hx"])
        called = graph.call_module(
            safe(path), (new(arguments["input"]), tuple(state) if isinstance(module, nn.LSTM) else state)
        )
        outputs, states = (graph.call_function(operator.getitem, (called, place)) for place in (0, 1))
        if not isinstance(module, nn.LSTM):
            return (outputs, states)
        return (outputs, *(graph.call_function(operator.getitem, (states, place)) for place in (0, 1)))


def place_of(name: str, model: nn.Module) -> str:
    """Where a layer of the original is in a smaller model: under its own name, or the safe one of a rewritten model."""
    return name if name in dict(model.named_modules()) else safe(name)


def safe(name: str) -> str:
    """A dotted name that is safe in generated code: what is no identifier is spelt in code points."""
    return ".".join(map(_safe, name.split(".")))


def _safe(part: str) -> str:
    if (part.isidentifier() and not keyword.iskeyword(part)) or part.isdigit():
        return part
    return "_" + "_".join(format(ord(letter), "x") for letter in part)
