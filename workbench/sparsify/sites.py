"""The tensors that may be masked: which parameters a recipe means, and how their dimensions lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from workbench.graph.trace import turned

KINDS = (nn.Linear, nn.modules.conv._ConvNd, nn.MultiheadAttention, nn.RNNBase)


@dataclass(frozen=True)
class Site:
    """One parameter. ``groups`` is above 0 for a transposed convolution, whose weight numbers its inputs first."""

    name: str
    shape: torch.Size
    groups: int = 0

    @property
    def layer(self) -> str:
        """The module that holds it."""
        return self.name.rpartition(".")[0]

    def turned(self, tensor: Tensor) -> Tensor:
        """A tensor of its shape as ``[out, in / groups, kernel...]``, and such a one as its own again."""
        return turned(tensor, self.groups) if self.groups else tensor

    @property
    def fans(self) -> torch.Size:
        """Its shape as ``[out, in / groups, kernel...]``."""
        return self.turned(torch.empty(self.shape, device="meta")).shape


def sites_of(model: nn.Module, layers: Sequence[str] = ("*",), ignore: Sequence[str] = ()) -> tuple[Site, ...]:
    """The parameters that some names mean, tied ones once.

    Parameters
    ----------
    layers : names or globs (``"blocks.*"``) of modules or parameters. A module's name, and ``"*"``, means the weights
        of the convolutions, linear, attention and recurrent layers in it; any other tensor goes by its own name
    ignore : those of them that are left out

    Raises
    ------
    ValueError
        A name means nothing, or a weight is computed by a parametrization.
    """
    weights = _weights(model)
    everything = dict(model.named_parameters())
    found: dict[str, None] = {}
    for pattern in layers:
        some = [name for name in weights if _means(pattern, name)]
        some += [name for name in everything if fnmatchcase(name, pattern) and pattern != "*" and name not in weights]
        if not some:
            raise ValueError(_nothing(pattern, [*weights, *everything]))
        found |= dict.fromkeys(some)
    for pattern in ignore:
        if not any(_means(pattern, name) for name in [*weights, *everything]):
            raise ValueError(_nothing(pattern, [*weights, *everything]))
    stay = [name for name in found if not any(_means(pattern, name) for pattern in ignore)]
    computed = [name for name in stay if name not in everything]
    if computed:
        raise ValueError(
            f"{computed[0]} is computed by a parametrization and cannot be masked; remove it with "
            "torch.nn.utils.parametrize.remove_parametrizations, or ignore the layer"
        )
    return tuple(_site(model, name, everything[name]) for name in everything if name in stay)


def _weights(model: nn.Module) -> list[str]:
    """The names of all weights, those too that a parametrization computes."""
    names: list[str] = []
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        if isinstance(module, KINDS):
            own = [name for name, tensor in module.named_parameters(recurse=False) if tensor.ndim > 1]
            names += [f"{prefix}{name}" for name in own]
            if parametrize.is_parametrized(module):
                names += [f"{prefix}{name}" for name in module.parametrizations]  # type: ignore[union-attr]
    known = dict(model.named_parameters())  # of tied ones the first name stays
    computed = [name for name in names if name not in dict(model.named_parameters(remove_duplicate=False))]
    return [name for name in names if name in known or name in computed]


def _site(model: nn.Module, name: str, tensor: Tensor) -> Site:
    owner = model.get_submodule(name.rpartition(".")[0])
    transposed = isinstance(owner, nn.modules.conv._ConvTransposeNd) and tensor.ndim > 1
    return Site(name, tensor.shape, owner.groups if transposed else 0)  # type: ignore[arg-type]


def _means(pattern: str, name: str) -> bool:
    """Whether a pattern is the parameter's name, its module's, or that of a module around it."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:count]), pattern) for count in range(1, len(parts) + 1))


def _nothing(pattern: str, names: Sequence[str]) -> str:
    known = list(dict.fromkeys([name.rpartition(".")[0] for name in names] + list(names)))
    near = get_close_matches(pattern, known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"the layers are {', '.join(filter(None, known[:20]))}"
    return f"no layer or parameter is called {pattern!r}; {hint}"
