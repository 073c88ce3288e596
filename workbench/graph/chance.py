"""Marks for what happens by chance in training and not at all in eval mode: dropout, stochastic depth.

``torch.export`` of a model in eval mode leaves no trace of it, and a rewritten model would train without. So a mark
is put into the graph in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Node

from workbench.errors import Refused
from workbench.graph.call import bind, layer_of, op_name

FUNCTIONS = {
    "dropout": nn.Dropout, "dropout1d": nn.Dropout1d, "dropout2d": nn.Dropout2d, "dropout3d": nn.Dropout3d,
    "alpha_dropout": nn.AlphaDropout, "feature_alpha_dropout": nn.FeatureAlphaDropout,
}  # fmt: skip


DRAWS = frozenset("""bernoulli cauchy exponential geometric log_normal multinomial normal normal_functional poisson rand
rand_like randint randint_like randn randn_like randperm uniform""".split())


def check_settled(model: nn.Module, nodes: Iterable[Node]) -> None:
    """Refuse what draws random numbers in eval mode, too: no smaller model could be compared with it.

    Raises
    ------
    Refused
        An operation does; it is named.
    """
    for node in nodes:
        op = op_name(node)
        active = op.endswith("dropout") and bind(node, node.args, node.kwargs).get("train") is True
        if op in DRAWS or active:
            raise Refused(
                op, layer_of(node) or type(model).__name__,
                "the forward draws random numbers in eval mode, too, so that no two models can be compared",
                "do without them there, as by `if self.training:`, or pass them in",
            )  # fmt: skip


@torch.library.custom_op("workbench::chance", mutates_args=())
def chance(self: Tensor, kind: str, p: float) -> Tensor:
    """The same tensor; ``kind`` is the function that would change it in training, empty for a module's own forward."""
    return self.clone()


@chance.register_fake
def _(self: Tensor, kind: str, p: float) -> Tensor:
    return torch.empty_like(self)


def _backward(_context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    return gradient, None, None


chance.register_autograd(_backward)  # the graph is run for gradients, too: of a loss, or of Fisher information


@contextmanager
def marked(model: nn.Module) -> Iterator[None]:
    """While this holds, every chance that an eval-mode forward passes by leaves a mark."""
    handles = [
        module.register_forward_hook(lambda _module, _inputs, output: chance(output, "", 0.0))
        for module in model.modules()
        if is_chance(module) and not isinstance(module, tuple(FUNCTIONS.values()))
    ]
    patches = [mock.patch.object(F, name, _marking(name, getattr(F, name))) for name in FUNCTIONS]
    try:
        for patch in patches:
            patch.start()
        yield
    finally:
        for patch in patches:
            patch.stop()
        for handle in handles:
            handle.remove()


def is_chance(module: nn.Module) -> bool:
    """A module without tensors or parts that is named for dropping something."""
    name = type(module).__name__.lower()
    bare = not any(True for _ in (*module.parameters(), *module.buffers(), *module.children()))
    return bare and ("drop" in name or name == "stochasticdepth")


def _marking(name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def call(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if training or not p:
            return function(input, p, training, inplace)
        return chance(input, name, float(p))

    return call
