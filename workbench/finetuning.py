"""``finetune``: some epochs of training after compression, from labels and from the original's outputs."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.calls import digest_of_call
from workbench.checkpoint import digest_of, load, save
from workbench.draws import seed_of
from workbench.evaluation import name_of
from workbench.graph.inputs import Inputs
from workbench.graph.modes import evaluating

Loss = Callable[[Any, Any], Tensor]  # of the model's output and the batch, a number
Maker = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
LENGTHS = "give a list, or a DataLoader of a dataset that knows its length"
ADAMW = partial(torch.optim.AdamW, lr=1e-3)


@dataclass(frozen=True)
class Finetuned:
    """The mean loss of every epoch, and the seconds of those that this call trained."""

    losses: tuple[float, ...]
    seconds: float

    def __repr__(self) -> str:
        fall = " -> ".join(f"{loss:.4g}" for loss in (*self.losses[:1], *self.losses[1:][-1:]))
        return f"Finetuned({len(self.losses)} epochs, loss {fall}, {self.seconds:.1f} s)"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"losses": list(self.losses)}


def finetune(
    model: nn.Module, loader: Iterable[Any], epochs: int = 1, *, teacher: nn.Module | None = None,
    distillation: float = 0.5, temperature: float = 2.0, loss: Loss | None = None, optimizer: Maker = ADAMW,
    warm_up: float = 0.1, checkpoint: str | os.PathLike[str] | None = None, seed: int = 0,
    penalty: Callable[[], Tensor] | None = None,
) -> Finetuned:  # fmt: skip
    """Train a model in place: all its parameters that require gradients, in training mode, BN by the batch.

    Every submodule has its former mode afterwards. What ``compress`` returns can be trained, models whose forward was
    rewritten, too: their BN and dropout are modules. All that is drawn from PyTorch's generators (a ``DataLoader``'s
    order, dropout) follows from the seed and the epoch; what the loader draws elsewhere must be the same each time.

    Parameters
    ----------
    model : where it is, the batches are moved
    loader : yields ``(inputs, labels)``, or inputs alone where no label is needed: as a tensor, a tuple (or the list
        that a ``DataLoader`` makes of it) or a dict; has a length
    epochs : how often it is gone over
    teacher : the original, whose outputs (logits, classes in dimension 1) are imitated; never changed, run in eval mode
    distillation : the share of the imitation in the loss: temperature^2 KL (Hinton et al. 2015, arXiv:1503.02531), the
        rest is cross-entropy; at 1 no label is needed
    temperature : of both softmaxes in the imitation
    loss : ``loss(output, batch)`` instead of all that, a number
    optimizer : makes one of parameters: ``partial(torch.optim.SGD, lr=0.05, momentum=0.9)``
    warm_up : the share of all steps in which the rate rises in a line, before it falls as a half cosine
    checkpoint : a safetensors file written after every epoch; the same call, on the model as it was at first, goes on
        from there to the same weights. Which data the loader yields is not checked, of a loss and a penalty their code
        and what they hold
    seed : of what is drawn
    penalty : a term that is added to the loss of every step, as ``Sparsifier.penalty``

    Raises
    ------
    ValueError
        An option, the loss, a loader that yields more or fewer batches than its length, or a checkpoint that belongs to
        something else.
    TypeError
        The loader has no length, or the optimiser's step needs a closure.

    Examples
    --------
    >>> model = nn.Linear(4, 2)
    >>> batches = [(torch.randn(8, 4), torch.randint(2, (8,)))]
    >>> len(finetune(model, batches, epochs=2).losses)
    2
    """
    start = time.perf_counter()
    _check(epochs, distillation, temperature, warm_up)
    if teacher is not None and loss is not None:
        raise ValueError("a teacher and a loss are both given; call the teacher in the loss, or leave the loss out")
    steps, optimiser = _length(loader), _optimiser(model, optimizer)
    measure = loss or partial(_loss, teacher, distillation, temperature)
    course = _Course(model, optimiser, measure, penalty, steps, epochs, warm_up)
    path = Path(checkpoint) if checkpoint is not None else None
    settings = {
        "steps": steps, "epochs": epochs, "seed": seed, "warm_up": warm_up,
        "loss": _told(loss) if loss else [distillation, temperature], "optimizer": repr(optimiser),
        "penalty": _told(penalty) if penalty else None,
        "set of parameters": [name for name, parameter in model.named_parameters() if parameter.requires_grad],
        "model": digest_of(model), "teacher": digest_of(teacher) if teacher is not None else None,
    } if path is not None else {}  # fmt: skip
    losses = load(path, model, optimiser, settings) if path is not None and path.exists() else []
    with evaluating(model), evaluating(teacher or model), torch.random.fork_rng():
        model.train()
        for epoch in range(len(losses), epochs):
            _seed(loader, seed, epoch)
            losses.append(course.epoch(loader, epoch))
            if path is not None:
                save(path, model, optimiser, settings | {"losses": losses})
    return Finetuned(tuple(losses), time.perf_counter() - start)


class _Course:
    """A training under way: what every step needs, and the rates as they were given."""

    def __init__(
        self, model: nn.Module, optimiser: torch.optim.Optimizer, loss: Loss, penalty: Callable[[], Tensor] | None,
        length: int, epochs: int, warm_up: float,
    ):  # fmt: skip
        self.model, self.optimiser, self.loss, self.penalty = model, optimiser, loss, penalty
        self.length, self.steps, self.warm_up = length, length * epochs, warm_up
        self.rates = [group["lr"] for group in optimiser.param_groups]

    def epoch(self, loader: Iterable[Any], epoch: int) -> float:
        """Every batch once; the mean loss."""
        losses: list[float] = []
        for batch in loader:
            if len(losses) == self.length:
                raise ValueError(f"the loader's length is {self.length}, and it yields more batches; {LENGTHS}")
            losses.append(self.step(batch, epoch * self.length + len(losses)))
        if len(losses) < self.length:
            raise ValueError(
                f"the loader's length is {self.length}, and it yielded {len(losses)} batches in epoch {epoch + 1}; "
                f"{LENGTHS}"
            )
        return sum(losses) / self.length

    def step(self, batch: Any, step: int) -> float:
        """One batch; its loss."""
        factor = _schedule(step, self.steps, self.warm_up)
        for group, rate in zip(self.optimiser.param_groups, self.rates, strict=True):
            group["lr"] = factor * rate
        self.optimiser.zero_grad()
        with torch.enable_grad():
            value = self.loss(_inputs(batch)(self.model), batch)
            if self.penalty is not None:
                value = value + self.penalty()
            if not value.isfinite():
                raise ValueError(f"the loss is {value.item()} at step {step}; lower the rate or look at the batch")
            value.backward()
        self.optimiser.step()
        return value.item()


def _loss(teacher: nn.Module | None, distillation: float, temperature: float, output: Tensor, batch: Any) -> Tensor:
    if not isinstance(output, Tensor):
        raise ValueError(f"the model returns a {type(output).__name__}, no logits; give loss=")
    share = distillation if teacher is not None else 0.0
    value = output.new_zeros(())
    if share < 1:
        value = (1 - share) * F.cross_entropy(output, _labels(batch).to(output.device))
    if teacher is None:
        return value
    with torch.no_grad():
        wanted = F.log_softmax(_inputs(batch)(teacher).to(output.device) / temperature, dim=1)
    found = F.log_softmax(output / temperature, dim=1)
    imitation = F.kl_div(found, wanted, reduction="sum", log_target=True) * (output.shape[1] / output.numel())
    return value + share * temperature**2 * imitation


def _inputs(batch: Any) -> Inputs:
    """The model's, before the labels or alone; of a tuple a ``DataLoader`` makes a list."""
    given = batch[0] if isinstance(batch, tuple | list) and batch else batch
    return Inputs.of(tuple(given) if isinstance(given, list) else given)


def _labels(batch: Any) -> Tensor:
    both = isinstance(batch, tuple | list) and len(batch) > 1
    if not both or not isinstance(batch[1], Tensor):
        what = f"labels that are a {type(batch[1]).__name__}" if both else f"a {type(batch).__name__}"
        raise ValueError(
            f"the loader yields {what}; let it yield (inputs, labels), or give loss=, or a teacher and "
            "distillation=1.0, which needs no labels"
        )
    return batch[1] if batch[1].is_floating_point() else batch[1].long()


def _schedule(step: int, steps: int, warm_up: float) -> float:
    """The factor of the rate; never 0, so that no step is lost."""
    rising = warm_up * steps
    if step + 1 <= rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising))) if step > rising else 1.0


def _seed(loader: Any, seed: int, epoch: int) -> None:
    drawn = seed_of(f"{seed} {epoch}")
    torch.manual_seed(drawn)
    if isinstance(generator := getattr(loader, "generator", None), torch.Generator):
        generator.manual_seed(drawn)


def _optimiser(model: nn.Module, make: Maker) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError(f"no parameter of {type(model).__name__} requires gradients; call .requires_grad_() on some")
    made = make(parameters)
    if isinstance(made, torch.optim.LBFGS):
        raise TypeError("LBFGS needs a closure, which finetune does not give; choose another, as torch.optim.AdamW")
    return made


def _length(loader: Any) -> int:
    try:
        length = len(loader)
    except TypeError:  # also of a DataLoader, where its dataset has none
        raise TypeError(f"the loader is a {type(loader).__name__} without a length; {LENGTHS}") from None
    if not length:
        raise ValueError("the loader is empty; it must yield at least one batch of (inputs, labels)")
    return length


def _told(function: Any) -> str:
    return f"{name_of(function)} {digest_of_call(function)}"


def _check(epochs: int, distillation: float, temperature: float, warm_up: float) -> None:
    if not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"epochs={epochs!r} must be a whole number, 1 or more")
    if not 0 <= distillation <= 1:
        raise ValueError(f"distillation={distillation!r} must be a share from 0 to 1")
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature={temperature!r} must be above 0")
    if not 0 <= warm_up < 1:
        raise ValueError(f"warm_up={warm_up!r} must be a share from 0 to below 1")
