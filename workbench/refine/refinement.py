"""A few hundred quasi-Newton steps of all layers together, kept where samples that were held out say it helps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from workbench.calibrate import MEMORY, Batches
from workbench.graph.inputs import Inputs
from workbench.graph.modes import evaluating
from workbench.graph.record import recorded
from workbench.graph.trace import ChannelGraph
from workbench.refine.bases import input_bases
from workbench.refine.blend import blended
from workbench.refine.features import Features, floats, scales_of, squared_errors
from workbench.refine.optimizer import Quasi
from workbench.refine.split import Split

VALUES = 3  # the original's, the smaller model's, and the gradients of these
SCALING = 4  # batches that tell how large the original's values are
WARM_UP = 0.2  # share of the steps in which the rate rises
REACH = 0.08  # of the root of the loss at first: larger steps do more harm than there is to make good


@dataclass(frozen=True)
class Refined:
    """The output error on held-out samples (mean squared, over the variance of the output) before and after.

    ``gained`` is the number of ``samples`` held out whose error fell. Where the mean did not fall, where no more
    samples gained than chance lets, or where the refinement ``failed`` and says why, the weights are those before.
    """

    before: float
    after: float
    gained: int
    samples: int
    steps: int
    failed: str = ""

    @property
    def kept(self) -> bool:
        """Whether the refined weights are used: by the mean, and by a sign test at one standard error."""
        return self.after < self.before and self.gained >= (self.samples + math.sqrt(self.samples)) / 2


@dataclass(frozen=True)
class Refinement:
    """Draws all layers of the smaller model together towards the original's features and outputs, without labels.

    The loss of a step is the relative squared error of the outputs, and ``features`` times the mean of those of what
    the layers read. Both models run in eval mode: BN keeps its statistics.

    Parameters
    ----------
    steps : how many
    rate : the largest step, as a share of each parameter's root mean square; less where little is to be made good
    features : weight of the layers' error beside the output's
    batch : samples a step, at most; their gradients are added up from parts that fit into memory
    held_out : at most this many samples judge and are not fitted to; at most a quarter of all
    blend : whether samples are mixed with each other, see ``blended``

    Examples
    --------
    >>> import workbench as wb
    >>> study = wb.zoo.task.study("vgg")
    >>> study.refinement
    Refinement(steps=300, rate=0.03, features=2.0, batch=64, held_out=128, blend=True)
    """

    steps: int = 300
    rate: float = 0.03
    features: float = 2.0
    batch: int = 64
    held_out: int = 128
    blend: bool = True

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "held_out"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name}={getattr(self, name)} of a refinement must be at least 1; refinement=None is none"
                )
        if not self.rate > 0 or self.features < 0:
            raise ValueError(
                f"a refinement has a rate above 0, not {self.rate}, and features >= 0, not {self.features}"
            )

    def split(self, graph: ChannelGraph, batches: Batches) -> Split:
        """Which samples are fitted to and which judge; a repair that comes before must leave the latter alone, too."""
        return Split(batches, self.held_out, self.batch, whole=not graph.program.any_batch)

    def apply_(
        self, graph: ChannelGraph, small: nn.Module, batches: Batches, *, memory: int = MEMORY, seed: int = 0,
        progress: bool = False,
    ) -> Refined:  # fmt: skip
        """Refine a smaller model in place; where samples that were held out do not gain, it stays as it was.

        ``memory`` is how many bytes the values of both models on the samples of a step may take, if one sample's do.
        """
        split = self.split(graph, batches)
        parameters = [parameter for parameter in small.parameters() if parameter.is_floating_point()]
        former = [(parameter.detach().clone(), parameter.requires_grad) for parameter in parameters]
        before = after = torch.zeros(0)
        failed = ""
        with evaluating(graph.model), evaluating(small):
            try:
                before = after = _errors(graph.model, small, split)
                self._steps(graph, small, parameters, split, memory, torch.Generator().manual_seed(seed), progress)
                after = _errors(graph.model, small, split)
            except Exception as error:  # no derivative, no memory, a forward that refuses: the repair still stands
                failed = f"{type(error).__name__}: {error}".splitlines()[0]
        if not after.isfinite().all():
            after, failed = before, f"the steps diverged; try a rate below {self.rate}"
        gained = int((after < before).sum())
        means = (before.mean().item(), after.mean().item()) if len(before) else (0.0, 0.0)
        found = Refined(*means, gained, len(before), self.steps, failed)
        for parameter, (value, asked) in zip(parameters, former, strict=True):
            parameter.requires_grad_(asked)
            parameter.grad = None
            if not found.kept:
                parameter.data.copy_(value)
        return found

    def _steps(
        self, graph: ChannelGraph, small: nn.Module, parameters: Sequence[nn.Parameter], split: Split,
        memory: int, generator: torch.Generator, progress: bool,
    ) -> None:  # fmt: skip
        most = max(1, memory // max(1, VALUES * graph.cost().activation_bytes))  # samples at a time
        record = recorded(small)
        assert record is not None
        features = Features(graph, record)
        quasi = Quasi(parameters, input_bases(small, split.fitted, generator))
        for parameter in parameters:
            parameter.requires_grad_(True)
        draws = self._draws(split, generator)
        scaling = (part for inputs in islice(draws, SCALING) for part, _ in split.parts(inputs, most))
        with torch.no_grad():
            scales = scales_of(features.original(graph.model, part) for part in scaling)
        rate = math.inf
        for number in tqdm(range(self.steps), "refine", disable=not progress, unit="step"):
            total = 0.0
            for part, share in split.parts(next(draws), most):
                with torch.no_grad():
                    wanted = features.original(graph.model, part)
                with torch.enable_grad():
                    outputs, layers = features.errors(wanted, features.smaller(small, part), scales)
                    loss = share * (outputs + self.features * layers)
                    loss.backward()
                total += loss.item()
            rate = min(rate, self.rate, REACH * math.sqrt(total)) if number == 0 else rate
            quasi.step(rate * _schedule((number + 0.5) / self.steps))

    def _draws(self, split: Split, generator: torch.Generator) -> Iterator[Inputs]:
        """Batches for steps, without end."""
        for inputs in split.forever(generator):
            yield blended(inputs, generator) if self.blend else inputs


def _schedule(progress: float) -> float:
    """Up in a straight line, down along a cosine."""
    if progress < WARM_UP:
        return progress / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))


@torch.no_grad()
def _errors(original: nn.Module, small: nn.Module, split: Split) -> Tensor:
    """Relative error of the outputs, of each sample that judges."""
    found = []
    for inputs in split.judging:
        pairs = zip(floats(inputs(original)), floats(inputs(small)), strict=True)
        errors = [squared_errors(*pair, inputs.batch or 1) for pair in pairs]
        if not errors:
            raise TypeError("no output is floating-point: there is nothing to draw nearer to")
        found.append(torch.stack(errors).sum(0).cpu() / len(errors))
    if not found:
        raise RuntimeError("no sample is left to judge; give at least 4, in several batches where their size is fixed")
    return torch.cat(found)
