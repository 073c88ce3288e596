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

KINDS: dict[type[nn.Module], tuple[str, ...]] = {  # the names of a layer's weights
    nn.Linear: ("weight",), nn.modules.conv._ConvNd: ("weight",),
    nn.MultiheadAttention: ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"),
    nn.RNNBase: ("weight_ih*", "weight_hh*", "weight_hr*"),
}  # fmt: skip
COMPUTED = ("_g", "_v", "_orig")  # what weight_norm, spectral_norm and torch.nn.utils.prune put in a weight's place


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
    layers : names or globs (``"blocks.*"``) of modules or parameters. They mean the weights of the convolutions,
        linear, attention and recurrent layers there; any other tensor is meant where its own last name is written out
        (``"blocks.*.bias"``)
    ignore : those of them that are left out

    Raises
    ------
    ValueError
        A name means nothing, or a weight is computed by a parametrization.
    """
    names = _names(model)
    weights = _weights(model)
    found: dict[str, None] = {}
    for pattern in layers:
        last = pattern.rpartition(".")[2]
        some = [name for name in weights if _means(pattern, name)]
        some += [name for name in names if name.rpartition(".")[2] == last and fnmatchcase(name, pattern)]
        if not some:
            raise ValueError(_nothing(pattern, [*weights, *names]))
        found |= dict.fromkeys(some)
    for pattern in ignore:
        if not any(_means(pattern, name) for name in [*weights, *names]):
            raise ValueError(_nothing(pattern, [*weights, *names]))
    left_out = {names.get(name, name) for name in [*weights, *names] for glob in ignore if _means(glob, name)}
    stay = {names.get(name, name) for name in found} - left_out
    computed = sorted(stay - names.keys())
    if computed:
        raise ValueError(
            f"{computed[0]} is computed by a parametrization and cannot be masked; remove it with "
            "torch.nn.utils.parametrize.remove_parametrizations (in its older forms with remove_weight_norm, "
            "remove_spectral_norm or prune.remove), or ignore the layer"
        )
    return tuple(_site(model, name, tensor) for name, tensor in model.named_parameters() if name in stay)


def _names(model: nn.Module) -> dict[str, str]:
    """Every name of every parameter, and the first of those that tied ones have."""
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    return {name: first[id(parameter)] for name, parameter in model.named_parameters(remove_duplicate=False)}


def _weights(model: nn.Module) -> list[str]:
    """The names of the weights of all layers, those too that a parametrization computes."""
    names: list[str] = []
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        globs = next((globs for kind, globs in KINDS.items() if isinstance(module, kind)), ())
        own = dict.fromkeys(_computed_from(name) for name, _ in module.named_parameters(recurse=False))
        if parametrize.is_parametrized(module):
            own |= dict.fromkeys(module.parametrizations)
        names += [f"{prefix}{name}" for name in own if any(fnmatchcase(name, glob) for glob in globs)]
    return names


def _computed_from(name: str) -> str:
    """The tensor that is computed from a parameter; itself where none is."""
    return next((name.removesuffix(end) for end in COMPUTED if name.endswith(end)), name)


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
