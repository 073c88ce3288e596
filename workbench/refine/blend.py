"""Blended samples: more inputs than there are, since the original model says what each should give."""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.graph.inputs import Inputs


def blended(inputs: Inputs, generator: torch.Generator) -> Inputs:
    """Half of the samples mixed with another, half with a box cut from another; both where both are drawn.

    Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019) without their labels. All tensors of a sample are mixed
    alike. Inputs that are not all floating-point (tokens, masks) are left as they are: no blend of them means anything.
    """
    tensors = inputs.tensors()
    if inputs.batch is None or not all(tensor.is_floating_point() for tensor in tensors):
        return inputs
    draws = _Draws(inputs.batch, generator)
    return inputs.map(lambda tensor: draws.cut(draws.mix(tensor)))


class _Draws:
    """What is drawn for one batch, the same for each of its tensors."""

    def __init__(self, samples: int, generator: torch.Generator):
        self.partner, self.donor = (torch.randperm(samples, generator=generator) for _ in range(2))
        own, self.cuts = (torch.rand(samples, generator=generator) < 0.5 for _ in range(2))
        self.share = torch.where(own, torch.rand(samples, generator=generator), 1.0)
        self.generator = generator

    def mix(self, tensor: Tensor) -> Tensor:
        """A convex combination of each sample and its partner."""
        share = self.share.to(tensor).view(-1, *[1] * (tensor.ndim - 1))
        return share * tensor + (1 - share) * tensor[self.partner.to(tensor.device)]

    def cut(self, tensor: Tensor) -> Tensor:
        """A box of each sample, in its dimensions behind the channels, replaced by its donor's."""
        if tensor.ndim < 3:
            return tensor
        inside = self.cuts.view(-1, *[1] * (tensor.ndim - 1))
        for dim, size in enumerate(tensor.shape[2:], 2):
            middle = torch.randint(size, (len(tensor), 1), generator=self.generator)
            half = torch.randint(1 + size // 3, (len(tensor), 1), generator=self.generator)
            shape = [len(tensor), *(size if d == dim else 1 for d in range(1, tensor.ndim))]
            inside = inside & ((torch.arange(size) - middle).abs() <= half).view(shape)
        return torch.where(inside.to(tensor.device), tensor[self.donor.to(tensor.device)], tensor)
