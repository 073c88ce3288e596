"""Penalties: terms that a training loop adds to its loss, so that what shall leave is small already."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from workbench.graph.trace import ChannelGraph
from workbench.sparsify.amounts import Absolute
from workbench.sparsify.criteria import Magnitude
from workbench.sparsify.patterns import rows
from workbench.sparsify.rule import Rule
from workbench.sparsify.view import WeightView, plain


@dataclass(frozen=True)
class Slimming:
    """Network slimming (Liu et al. 2017): ``strength`` times the sum of the absolute scales of BNs."""

    strength: float = 1e-4
    layers: tuple[str, ...] = ("*",)

    def __call__(self, model: nn.Module, time: float, graph: ChannelGraph | None = None) -> Tensor:
        """The term now.

        Raises
        ------
        ValueError
            No BN has such a name.
        """
        scales = [
            module.weight for name, module in model.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.weight is not None
            and any(fnmatchcase(name, glob) for glob in self.layers)
        ]  # fmt: skip
        if not scales:
            names = " or ".join(self.layers)
            raise ValueError(f"no BN with a scale is called {names}; name others, or leave Slimming out")
        return self.strength * torch.stack([scale.abs().sum() for scale in scales]).sum()


@dataclass(frozen=True)
class GroupLasso:
    """``strength`` times the sum of the 2-norms of the rule's units: filters, blocks, or with ``Channels`` all weights
    that make a unit together."""

    strength: float = 1e-4
    rule: Rule = Rule(pattern=rows())

    def __call__(self, model: nn.Module, time: float, graph: ChannelGraph | None = None) -> Tensor:
        """The term now."""
        norms = [
            one.parts({site.name: model.get_parameter(site.name) for site in one.scored}).norm(dim=-1).sum()
            for one in self.rule.units(model, graph)
        ]
        return self.strength * torch.stack(norms).sum()


@dataclass(frozen=True)
class Growing:
    """Growing regularisation (Wang et al. 2021): half the squares of the weights that a rule would mask now, times a
    strength that grows by ``step`` every ``every`` from ``begin`` on, up to ``ceiling``."""

    amount: float
    rule: Rule = Rule(Magnitude(), rows())
    step: float = 1e-4
    every: float = 10
    ceiling: float = 1.0
    begin: float = 0

    def strength(self, time: float) -> float:
        """The factor at a time."""
        return min(self.ceiling, self.step * (1 + (time - self.begin) // self.every)) if time >= self.begin else 0.0

    def __call__(self, model: nn.Module, time: float, graph: ChannelGraph | None = None) -> Tensor:
        """The term now; its weights are those that are worth least now.

        Raises
        ------
        ValueError
            The rule's criterion needs more than the weights.
        """
        if self.rule.criterion.needs:
            raise ValueError(f"Growing goes by the weights alone, and {self.rule.criterion} needs more; use Magnitude")
        units = self.rule.units(model, graph)
        known: dict[str, Tensor] = {}
        views = {
            site.name: WeightView(site, plain(model.get_parameter(site.name))) for one in units for site in one.scored
        }
        self.rule.look(units, views, known)
        gone = {name: torch.zeros_like(worth, dtype=torch.bool) for name, worth in known.items()}
        masks = self.rule.choose(units, known, gone, Absolute(self.amount))
        squares = [model.get_parameter(name)[~mask].square().sum() for name, mask in masks.items()]
        return self.strength(time) / 2 * torch.stack(squares).sum()


Penalty = Slimming | GroupLasso | Growing

