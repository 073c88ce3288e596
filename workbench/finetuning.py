"""``finetune``: some epochs of training after compression, from labels and from the original's outputs."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.checkpoint import digest_of, load, save
from workbench.draws import seed_of
from workbench.evaluation import name_of
from workbench.graph.inputs import Inputs
from workbench.graph.modes import evaluating

Loss = Callable[[Any, Any], Tensor]  # of the model's output and the batch, a number
Maker = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
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
    loader : yields ``(inputs, labels)``, inputs as a tensor, a tuple or a dict; has a length
    epochs : how often it is gone over
    teacher : the original, whose outputs (logits, classes in dimension 1) are imitated; never changed, run in eval mode
    distillation : the share of the imitation in the loss: temperature^2 KL (Hinton et al. 2015, arXiv:1503.02531), the
        rest is cross-entropy
    temperature : of both softmaxes in the imitation
    loss : ``loss(output, batch)`` instead of all that, a number
    optimizer : makes one of parameters: ``partial(torch.optim.SGD, lr=0.05, momentum=0.9)``
    warm_up : the share of all steps in which the rate rises in a line, before it falls as a half cosine
    checkpoint : a safetensors file written after every epoch; the same call, on the model as it was at first, goes on
        from there to the same weights. Which data the loader yields is not checked
    seed : of what is drawn
    penalty : a term that is added to the loss of every step, as ``Sparsifier.penalty``

    Raises
    ------
    ValueError
        An option, the loss, or a checkpoint that belongs to something else.
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
    settings = {
        "steps": steps, "epochs": epochs, "seed": seed, "warm_up": warm_up,
        "loss": name_of(loss) if loss else [distillation, temperature], "optimizer": repr(optimiser),
        "penalty": name_of(penalty) if penalty else None,
        "model": digest_of(model), "teacher": digest_of(teacher) if teacher is not None else None,
    }  # fmt: skip
    measure = loss or partial(_loss, teacher, distillation, temperature)
    course = _Course(model, optimiser, measure, penalty, epochs * steps, warm_up)
    path = Path(checkpoint) if checkpoint is not None else None
    losses = load(path, model, optimiser, settings) if path is not None and path.exists() else []
    with evaluating(model), evaluating(teacher or model), torch.random.fork_rng():
        model.train()
        for epoch in range(len(losses), epochs):
            _seed(loader, seed, epoch)
            losses.append(sum(map(course.step, loader, count(epoch * steps))) / steps)
            if path is not None:
                save(path, model, optimiser, settings | {"losses": losses})
    return Finetuned(tuple(losses), time.perf_counter() - start)


class _Course:
    """A training under way: what every step needs, and the rates as they were given."""

    def __init__(
        self, model: nn.Module, optimiser: torch.optim.Optimizer, loss: Loss, penalty: Callable[[], Tensor] | None,
        steps: int, warm_up: float,
    ):  # fmt: skip
        self.model, self.optimiser, self.loss, self.penalty = model, optimiser, loss, penalty
        self.steps, self.warm_up = steps, warm_up
        self.rates = [group["lr"] for group in optimiser.param_groups]

    def step(self, batch: Any, step: int) -> float:
        """One batch; its loss."""
        if not isinstance(batch, tuple | list) or len(batch) < 2:
            raise ValueError(f"the loader yields a {type(batch).__name__}; let it yield (inputs, labels)")
        factor = _schedule(step, self.steps, self.warm_up)
        for group, rate in zip(self.optimiser.param_groups, self.rates, strict=True):
            group["lr"] = factor * rate
        self.optimiser.zero_grad()
        with torch.enable_grad():
            value = self.loss(Inputs.of(batch[0])(self.model), batch)
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
    labels = F.cross_entropy(output, batch[1].to(output.device))
    if teacher is None:
        return labels
    with torch.no_grad():
        wanted = F.log_softmax(Inputs.of(batch[0])(teacher).to(output.device) / temperature, dim=1)
    found = F.log_softmax(output / temperature, dim=1)
    imitation = F.kl_div(found, wanted, reduction="sum", log_target=True) * (output.shape[1] / output.numel())
    return (1 - distillation) * labels + distillation * temperature**2 * imitation


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
    if not hasattr(loader, "__len__"):
        raise TypeError(f"the loader is a {type(loader).__name__} without a length; give a list or a DataLoader")
    if not len(loader):
        raise ValueError("the loader is empty; it must yield at least one batch of (inputs, labels)")
    return len(loader)


def _check(epochs: int, distillation: float, temperature: float, warm_up: float) -> None:
    if not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"epochs={epochs!r} must be a whole number, 1 or more")
    if not 0 <= distillation <= 1:
        raise ValueError(f"distillation={distillation!r} must be a share from 0 to 1")
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature={temperature!r} must be above 0")
    if not 0 <= warm_up < 1:
        raise ValueError(f"warm_up={warm_up!r} must be a share from 0 to below 1")
