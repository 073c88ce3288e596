"""``prune``: masks in one shot, without training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from workbench.graph.trace import ChannelGraph
from workbench.signals import Loss
from workbench.sparsify.amounts import Amount, amount_of
from workbench.sparsify.evidence import ACTIVATIONS, activations, gradients
from workbench.sparsify.masks import fitting
from workbench.sparsify.rule import Rule, merged, scored_sites
from workbench.sparsify.units import Masks, Units
from workbench.sparsify.view import views_of


def prune(
    model: nn.Module, amount: Amount | float, rule: Rule | None = None, *, masks: Mapping[str, Tensor] | None = None,
    calibration: Any = None, loss: Loss | None = None, graph: ChannelGraph | None = None, seed: int = 0,
) -> Masks:  # fmt: skip
    """The masks that a rule chooses; the model is not changed, ``mask_`` does that.

    Parameters
    ----------
    amount : ``Absolute`` or ``Further``; a number is absolute: a float is a share, an int a number of units
    rule : by default the smallest weights of every layer
    masks : what is masked before; it stays masked. Weights count as zero there
    calibration : model inputs, for criteria that need gradients or activations
    loss : ``loss(output, inputs)``, summed over samples; by default cross-entropy against drawn labels
    graph : the traced model, for ``Channels``
    seed : of draws

    Raises
    ------
    ValueError
        A name means nothing, a shape does not divide, the amount cannot be had, or calibration data is missing.

    Examples
    --------
    >>> from workbench.sparsify import Further
    >>> model = nn.Linear(4, 2)
    >>> masks = prune(model, 0.5)
    >>> masks = prune(model, Further(0.5), masks=masks)
    >>> int(masks["weight"].sum())
    2
    """
    rule = rule or Rule()
    units = rule.units(model, graph)
    before = dict(masks or {})
    fitting(model, before)
    known: dict[str, Tensor] = {}
    for views in _looks(model, rule, units, before, calibration, loss, seed):
        rule.look(units, views, known)
    whole = {name: before.get(name, _ones(model, name)) for one in units for name in one.masked}
    gone = {one.name: ~one.present(whole) for one in units}
    return merged([before, rule.choose(units, known, gone, amount_of(amount))])


def _looks(
    model: nn.Module, rule: Rule, units: list[Units], masks: Masks, calibration: Any, loss: Loss | None, seed: int
) -> Any:
    """What the criterion sees: once, or with every batch's gradient."""
    sites = scored_sites(units)
    needs = rule.criterion.needs
    if needs and calibration is None:
        raise ValueError(f"{rule.criterion} needs {', '.join(sorted(needs))}; give calibration= and, if need be, loss=")
    seen = activations(model, sites, needs & ACTIVATIONS, calibration) if needs & ACTIVATIONS else {}
    every = gradients(model, calibration, loss, seed) if "gradient" in needs else [{}]
    weights: dict[str, Tensor] = {site.name: model.get_parameter(site.name).detach() for site in sites}
    for name in weights.keys() & masks.keys():
        weights[name] = weights[name].masked_fill(~masks[name].to(weights[name].device), 0)
    for grads in every:
        yield views_of(weights, sites, seen, grads, seed)


def _ones(model: nn.Module, name: str) -> Tensor:
    return torch.ones_like(model.get_parameter(name), dtype=torch.bool)
