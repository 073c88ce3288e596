"""What a criterion sees of one tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.sparsify.sites import Site


@dataclass(frozen=True)
class WeightView:
    """One tensor and what was gathered of it; all in the tensor's own shape, in float32 or float64.

    ``gradient`` is the last one, at masked places too; ``inputs`` holds for each weight the 2-norm of what it is
    multiplied by over the calibration data; ``outputs`` the mean of what its output channel gives, and ``active`` the
    share of it above 0.
    """

    site: Site
    weight: Tensor
    seed: int = 0
    gradient: Tensor | None = None
    inputs: Tensor | None = None
    outputs: Tensor | None = None
    active: Tensor | None = None

    def need(self, what: str) -> Tensor:
        """One of the gathered tensors.

        Raises
        ------
        ValueError
            It was not gathered.
        """
        found: Tensor | None = getattr(self, what)
        if found is None:
            remedy = (
                "give calibration=, or call step() between backward() and zero_grad()" if what == "gradient" else
                "give calibration=, and name only layers that are called as modules"
            )  # fmt: skip
            raise ValueError(f"the criterion needs the {what} of {self.site.name}, of which there is none; {remedy}")
        return found


def plain(tensor: Tensor) -> Tensor:
    """A tensor without its history, in float32 at least."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))


def views_of(
    weights: Mapping[str, Tensor], sites: Sequence[Site], seen: Mapping[str, Mapping[str, Tensor]],
    grads: Mapping[str, Tensor], seed: int,
) -> dict[str, WeightView]:  # fmt: skip
    """What a criterion sees of some tensors; ``seen`` by what was gathered, then by tensor."""
    views = {}
    for site in sites:
        gathered = {what: found[site.name] for what, found in seen.items() if site.name in found}
        gradient = plain(grads[site.name]) if site.name in grads else None
        views[site.name] = WeightView(site, plain(weights[site.name]), seed, gradient, **gathered)
    return views
