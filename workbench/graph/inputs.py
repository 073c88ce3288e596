"""Model inputs as the user gives them: a tensor is the one input, a tuple positional, a dict keyword."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

REMEDIES = {  # where something else is given
    "list": "; make the list a tuple, and of a DataLoader of inputs and labels keep the inputs: [x for x, _ in loader]",
    "ndarray": "; torch.from_numpy makes a tensor of an array",
}


@dataclass(frozen=True)
class Inputs:
    """The arguments of one call of a model."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @classmethod
    def of(cls, given: Any) -> Inputs:
        """Read a tensor, a tuple or a dict.

        Raises
        ------
        TypeError
            It is none of the three.
        """
        if isinstance(given, Inputs):
            return given
        if isinstance(given, Tensor):
            return cls((given,), {})
        if isinstance(given, tuple):
            return cls(given, {})
        if isinstance(given, Mapping):
            return cls((), dict(given))
        raise TypeError(
            f"model inputs are a tensor, a tuple (positional) or a dict (keyword), not {type(given).__name__}"
            + REMEDIES.get(type(given).__name__, "")
        )

    def tensors(self) -> list[Tensor]:
        """All tensors among the arguments, in order."""
        return [leaf for leaf in pytree.tree_leaves((self.args, dict(self.kwargs))) if isinstance(leaf, Tensor)]

    def map(self, change: Any) -> Inputs:
        """The same arguments with every tensor changed."""
        args, kwargs = pytree.tree_map_only(Tensor, change, (self.args, dict(self.kwargs)))
        return Inputs(args, kwargs)

    @property
    def batch(self) -> int | None:
        """The size that all tensors share in dimension 0, or None where they differ."""
        sizes = {tensor.shape[0] if tensor.ndim else None for tensor in self.tensors()}
        return sizes.pop() if len(sizes) == 1 else None

    def take(self, count: int) -> Inputs:
        """The same inputs with ``count`` samples: the first ones, repeated where there are too few."""
        if self.batch is None:
            return self
        return self.map(lambda tensor: tensor[torch.arange(count) % len(tensor)])

    def to(self, device: torch.device) -> Inputs:
        """The same inputs on another device."""
        return self.map(lambda tensor: tensor.to(device))

    def telling(self) -> Inputs:
        """The same inputs, varied where one is the same number everywhere: that would hide most mistakes."""
        return self.map(_varied)

    def unlike(self, example: Inputs) -> tuple[str, str]:
        """How the tensors of other inputs differ from these in dimensions, and in dtype; empty where they do not."""
        pairs = list(zip(self.tensors(), example.tensors(), strict=False))
        shapes = [f"{list(one.shape)}, not {list(other.shape)}" for one, other in pairs if one.ndim != other.ndim]
        dtypes = [f"{one.dtype}, not {other.dtype}" for one, other in pairs if one.dtype != other.dtype]
        return "; ".join(shapes), "; ".join(dtypes)

    def dynamic(self) -> Any:
        """``dynamic_shapes`` for ``torch.export``: dimension 0 is free where all tensors share it, and it is not 1."""
        shapes = torch.export.ShapesCollection()
        if (self.batch or 1) > 1:
            for tensor in self.tensors():
                shapes[tensor] = {0: torch.export.Dim.AUTO}
        return shapes

    def __call__(self, model: nn.Module) -> Any:
        """What the model returns for these arguments, which are moved to where it is."""
        moved = self
        for tensor in (*model.parameters(), *model.buffers()):
            moved = self.to(tensor.device)
            break
        return model(*moved.args, **moved.kwargs)


pytree.register_pytree_node(
    Inputs, lambda inputs: ([inputs.args, dict(inputs.kwargs)], None), lambda leaves, _context: Inputs(*leaves)
)


def _varied(tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point() or not tensor.numel() or tensor.min() < tensor.max():
        return tensor
    generator = torch.Generator().manual_seed(0)
    return tensor + torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype).to(tensor.device)


def content_of(tensor: Tensor) -> bytes:
    """The bytes of a tensor, for fingerprints."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def read_by(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What a layer of PyTorch reads, of the arguments that it is called with."""
    return args[0] if args else kwargs["input"]


def check_repeats(batches: Iterable[Any], what: str) -> None:
    """Read the first batch twice.

    Raises
    ------
    ValueError
        It is another one the second time: what is fitted would be judged by what was fitted, and pairs be none.
    """
    first, again = (pytree.tree_leaves(next(iter(batches), None)) for _ in range(2))
    alike = len(first) == len(again) and all(
        content_of(one) == content_of(other)
        for one, other in zip(first, again, strict=True) if isinstance(one, Tensor) and isinstance(other, Tensor)
    )  # fmt: skip
    if not alike:
        raise ValueError(
            f"{what} yields other batches each time it is gone over, shuffled or augmented at random; give "
            "shuffle=False, or list(loader)"
        )


def device_of(tensors: Iterable[Tensor]) -> torch.device:
    """Where the first of some tensors is; the processor's memory where there are none."""
    return next((tensor.device for tensor in tensors), torch.device("cpu"))
