"""What criteria need beside the weights: gradients, and what layers read and give on calibration data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from workbench.calibrate import Batches
from workbench.graph.inputs import read_by
from workbench.graph.modes import evaluating
from workbench.signals import Loss, drawn_loss
from workbench.sparsify.sites import Site
from workbench.sparsify.view import plain

ACTIVATIONS = frozenset({"inputs", "outputs", "active"})
Activations = dict[str, dict[str, Tensor]]  # by need, then by the weight's name, in its shape


def gradients(model: nn.Module, calibration: Any, loss: Loss | None, seed: int) -> Iterator[dict[str, Tensor]]:
    """The mean gradients of every batch, in eval mode, by the parameter's name; the model's own are left alone.

    Frozen parameters have one as well: that nobody trains a weight says nothing of what it is worth.
    ``loss(output, inputs)``, summed over samples, is by default the cross-entropy against labels drawn from the output.
    """
    generator = torch.Generator().manual_seed(seed)
    loss = loss or (lambda output, _inputs: drawn_loss(output, generator))
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.is_floating_point()}
    for inputs in Batches.of(calibration):
        with evaluating(model), torch.enable_grad(), _unfrozen(parameters.values()):
            value = loss(inputs(model), inputs) / (inputs.batch or 1)
            found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
        yield {name: grad for name, grad in zip(parameters, found, strict=True) if grad is not None}


@contextmanager
def _unfrozen(parameters: Collection[nn.Parameter]) -> Iterator[None]:
    frozen = [parameter for parameter in parameters if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def activations(model: nn.Module, sites: Sequence[Site], needs: Collection[str], calibration: Any) -> Activations:
    """What the layers of some weights read and give, in one pass in eval mode.

    A weight whose layer is not called as a module has nothing.
    """
    seen: Activations = defaultdict(dict)
    samples: dict[str, int] = defaultdict(int)
    with evaluating(model), torch.no_grad(), _watching(model, sites, _gatherer(needs, seen, samples)):
        for inputs in Batches.of(calibration):
            inputs(model)
    for name, count in samples.items():
        for what in needs & seen.keys():
            found = seen[what][name]
            seen[what][name] = found.sqrt() if what == "inputs" else found / count
    return dict(seen)


Gather = Callable[[Site, nn.Module, Tensor, Tensor], None]


def _gatherer(needs: Collection[str], seen: Activations, samples: dict[str, int]) -> Gather:
    def gather(site: Site, module: nn.Module, read: Tensor, given: Tensor) -> None:
        weight = plain(module.get_parameter(site.name.rpartition(".")[2]))
        dim = 1 if given.ndim > 2 and not isinstance(module, nn.Linear) else -1
        given = plain(given).relu().movedim(dim, 0).flatten(1)
        found = {
            "inputs": lambda: _squares(module, site, read), "outputs": lambda: _by_output(site, weight, given.sum(1)),
            "active": lambda: _by_output(site, weight, (given > 0).sum(1)),
        }  # fmt: skip
        for what in needs:
            seen[what][site.name] = seen[what].get(site.name, 0) + found[what]()
        samples[site.name] += given.shape[1]

    return gather


def _squares(module: nn.Module, site: Site, read: Tensor) -> Tensor:
    """For each weight, the sum of the squares of all it is multiplied by, in its shape.

    A linear operation's derivative by its weight, where it reads squares: right for every kind of convolution.
    """
    zeros = {name: torch.zeros_like(plain(tensor)) for name, tensor in module.named_parameters()}
    weight = zeros[site.name.rpartition(".")[2]].requires_grad_(True)
    with torch.enable_grad():
        total = functional_call(module, zeros, (plain(read).square(),)).sum()
        return torch.autograd.grad(total, weight)[0]


def _by_output(site: Site, weight: Tensor, sums: Tensor) -> Tensor:
    turned = site.turned(weight) if weight.ndim > 1 else weight
    wide = sums.to(weight).view(-1, *[1] * (turned.ndim - 1)).expand(turned.shape)
    return site.turned(wide) if weight.ndim > 1 else wide


@contextmanager
def _watching(model: nn.Module, sites: Sequence[Site], gather: Gather) -> Iterator[None]:
    """Call ``gather`` for every run of a site's module; not for the runs that gathering itself makes."""
    busy: list[Site] = []

    def hook(site: Site) -> Any:
        def watch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], given: Any) -> None:
            if not busy and isinstance(given, Tensor):
                busy.append(site)
                gather(site, module, read_by(args, kwargs), given)
                busy.clear()

        return watch

    owners = [(site, model.get_submodule(site.layer)) for site in sites]
    layers = (nn.Linear, nn.modules.conv._ConvNd)
    watched = [(site, owner) for site, owner in owners if isinstance(owner, layers)]
    handles = [owner.register_forward_hook(hook(site), with_kwargs=True) for site, owner in watched]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
