"""What a model costs, counted on the model itself: MACs, parameters, activation memory."""

from __future__ import annotations

import copy
import warnings
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from workbench.graph.inputs import Inputs, device_of

# Ops that compute, yet cost nothing worth counting beside the multiplications of a layer.
CHEAP = """add sub mul div relu relu_ gelu silu sigmoid hardtanh hardtanh_ hardswish hardsigmoid clamp native_batch_norm
cudnn_batch_norm _native_batch_norm_legit_no_training native_layer_norm native_group_norm mean sum amax max_pool2d
max_pool2d_with_indices avg_pool2d _adaptive_avg_pool2d adaptive_avg_pool2d _softmax tanh exp pow sqrt rsqrt neg where
leaky_relu elu embedding maximum minimum _prelu_kernel adaptive_max_pool2d adaptive_max_pool3d upsample_nearest1d
upsample_nearest2d upsample_nearest3d""".split()


@dataclass(frozen=True)
class Cost:
    """The cost of one sample.

    ``macs`` are multiply-accumulates of convolutions, linear layers and matrix products; ``params`` the parameters,
    tied ones once; ``activation_bytes`` the sum of what all ops write, ``peak_activation_bytes`` the largest single
    result with its inputs; ``size_bytes`` what parameters and buffers take; ``not_counted`` names compute ops that have
    no MAC formula.
    """

    macs: int
    params: int
    activation_bytes: int
    peak_activation_bytes: int
    size_bytes: int
    not_counted: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Cost({self.macs / 1e6:.2f} M MACs, {self.params / 1e6:.3f} M parameters)"

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and names."""
        return asdict(self) | {"not_counted": list(self.not_counted)}


def count(model: nn.Module, example_inputs: Any) -> Cost:
    """Count a model on the meta device: no arithmetic is done, no memory taken, unless its forward looks at values.

    MACs are those of torch's FlopCounterMode, halved, with attention and the transformer's fast path taken apart into
    products it can count.

    Examples
    --------
    >>> count(nn.Conv2d(3, 8, 3), torch.zeros(1, 3, 10, 10)).macs  # 8 * 8 positions of 3 * 3 * 3 * 8
    13824
    """
    inputs = Inputs.of(example_inputs)
    flops, writes = _watched(model, inputs)
    batch = inputs.batch or 1
    return Cost(
        macs=flops.get_total_flops() // 2 // batch,
        params=sum(parameter.numel() for parameter in model.parameters()),
        activation_bytes=writes.total // batch,
        peak_activation_bytes=writes.peak // batch,
        size_bytes=sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers())),
        not_counted=tuple(sorted(writes.uncounted)),
    )


def written(model: nn.Module, inputs: Inputs) -> list[Written]:
    """What all ops of one run write, in order: ``activation_bytes`` in parts, of all samples together."""
    return _watched(model, inputs)[1].parts


def _watched(model: nn.Module, inputs: Inputs) -> tuple[FlopCounterMode, _Writes]:
    try:
        return _run(model, inputs, torch.device("meta"))
    except RuntimeError:  # the forward looks at values, which nothing on meta has: it is run for real
        return _run(model, inputs, device_of(model.parameters()))


def _run(model: nn.Module, inputs: Inputs, device: torch.device) -> tuple[FlopCounterMode, _Writes]:
    """A copy of the model, watched while it runs there."""
    there = inputs.to(device)  # before anything is counted
    copied = copy.deepcopy(model).to(device).eval().requires_grad_(False)
    flops, writes = FlopCounterMode(display=False), _Writes()
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            device,  # a forward may make tensors of its own
            torch.no_grad(), sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings(), flops, writes,
        ):  # fmt: skip
            warnings.simplefilter("ignore")  # on meta, torch warns of a mismatch that the kernel choice already settles
            copied(*there.args, **there.kwargs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return flops, writes


@dataclass(frozen=True)
class Written:
    """One tensor that an op wrote: the op's name, the tensor's shape and the bytes of an element."""

    op: str
    shape: tuple[int, ...]
    element: int

    @property
    def nbytes(self) -> int:
        """The bytes of the whole tensor."""
        return self.element * prod(self.shape)


class _Writes(TorchDispatchMode):
    """Adds up what ops write, and lists those that compute without a formula."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch gives it no types
        self.parts: list[Written] = []
        self.peak = 0
        self.uncounted: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[-1]
        if name == "_unsafe_view" or any(alias.alias_info for alias in func._schema.returns):
            return result  # a view, or written in place
        parts = _tensors(name, result)
        self.parts += parts
        self.peak = max(self.peak, sum(part.nbytes for part in (*parts, *_tensors(name, (args, kwargs)))))
        if func._overloadpacket not in flop_registry and name not in CHEAP and _multiplies(func):
            self.uncounted.add(str(func))
        return result

    @property
    def total(self) -> int:
        """All bytes written."""
        return sum(part.nbytes for part in self.parts)


def _tensors(op: str, values: Any) -> list[Written]:
    found = (leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor))
    return [Written(op, tuple(tensor.shape), tensor.element_size()) for tensor in found]


def _multiplies(func: Any) -> bool:
    """Not one of the ops that PyTorch itself tags as pointwise, a view or a way to make a tensor."""
    quiet = {torch.Tag.pointwise, torch.Tag.inplace_view} | {getattr(torch.Tag, "reduction", torch.Tag.pointwise)}
    moves = (
        "copy",
        "clone",
        "cat",
        "empty",
        "zeros",
        "ones",
        "full",
        "arange",
        "constant_pad",
        "index",
        "view",
        "lift",
    )
    name = func._schema.name.split("::")[-1]
    return not (quiet & set(func.tags)) and not any(word in name for word in moves)
