"""Evaluations: how good is a model? Higher is better, always."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from tqdm.auto import tqdm

from workbench.graph.inputs import Inputs
from workbench.graph.modes import evaluating


@dataclass(frozen=True)
class Evaluation:
    """A score for each sample, which lets a search reuse what it has computed.

    Parameters
    ----------
    batches : data that can be gone over again
    score : ``score(output, batch) -> 1-D``, one number a sample, higher is better
    inputs : picks the model's inputs out of a batch; by default a tuple's first element, else the batch itself
    name : of the score, for people

    Examples
    --------
    >>> images, labels = torch.zeros(4, 3), torch.tensor([0, 1, 0, 1])
    >>> right = Evaluation([(images, labels)], lambda output, batch: output.argmax(1).eq(batch[1]), name="accuracy")
    >>> right.scores(nn.Linear(3, 2)).shape
    (4,)
    """

    batches: Iterable[Any]
    score: Callable[[Any, Any], Any]
    inputs: Callable[[Any], Any] | None = None
    name: str = "score"
    compares: ClassVar[bool] = False  # whether a score needs the original's output, too

    def __post_init__(self) -> None:
        if iter(self.batches) is self.batches:
            raise ValueError(
                f"the batches of the evaluation {self.name!r} are a generator that can be read once; give a list, a "
                "DataLoader or any object whose iteration starts anew each time"
            )

    def inputs_of(self, batch: Any) -> Inputs:
        """The model's inputs in a batch."""
        if self.inputs is not None:
            return Inputs.of(self.inputs(batch))
        return Inputs.of(batch[0] if isinstance(batch, tuple | list) else batch)

    def batch_scores(self, output: Any, dense_output: Any, batch: Any) -> np.ndarray:
        """One score a sample, float64. ``dense_output`` is the original model's, for scores that compare with it."""
        del dense_output
        return _vector(self.score(_on_cpu(output), batch))

    def scores(self, model: nn.Module) -> np.ndarray:
        """One score a sample of all the data."""
        with evaluating(model), torch.no_grad():
            outputs = ((self.inputs_of(batch)(model), batch) for batch in self.batches)
            scores = [self.batch_scores(output, None, batch) for output, batch in outputs]
        return np.concatenate([np.empty(0), *scores])


@dataclass(frozen=True)
class Fidelity(Evaluation):
    """Label-free: how near each sample's output is to the original model's; of several outputs, the mean over them.

    Classes are the last dimension, or dimension 1 where there are more than three (images).

    Parameters
    ----------
    kind : ``"kl"``, minus the Kullback-Leibler divergence of the softmax over the classes, and of a single number that
        of a normal distribution with the mean square of the original's numbers in the batch; ``"top1"``, whether the
        largest class is the same (of several places in a sample, the share of them); ``"error"``, minus the norm of
        the difference over that of the original's output

    Raises
    ------
    ValueError
        There is no such kind.
    """

    score: Callable[[Any, Any], Any] = print  # the kind's, once that is known
    name: str = ""
    kind: str = "kl"
    compares: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in list(KINDS):
            raise ValueError(f"there is no fidelity of the kind {self.kind!r}; choose from {', '.join(KINDS)}")
        name, score = KINDS[self.kind]
        object.__setattr__(self, "name", self.name or name)
        object.__setattr__(self, "score", score)

    def batch_scores(self, output: Any, dense_output: Any, batch: Any) -> np.ndarray:
        if dense_output is None:
            raise ValueError("fidelity compares with the original model's output, which is not at hand here")
        pairs = _compared(output, dense_output)
        if self.kind == "top1":
            pairs = [pair for pair in pairs if _classes(pair[1]).shape[-1] > 1]
            if not pairs:
                raise ValueError(
                    "the model returns one number a sample, of which there is no top1; give "
                    "evaluate=Fidelity(batches, kind='error'), or a score of your own"
                )
        scores = [self.score(*pair) for pair in pairs]
        return torch.stack([some.reshape(len(some), -1).mean(1) for some in scores]).mean(0).numpy()


def _divergence(small: Tensor, dense: Tensor) -> Tensor:
    small, dense = _classes(small), _classes(dense)
    if dense.shape[-1] < 2:
        return -0.5 * (small - dense).square() / dense.square().mean().clamp_min(torch.finfo(torch.float32).tiny)
    small, dense = small.log_softmax(-1), dense.log_softmax(-1)
    return -(dense.exp() * (dense - small)).where(dense > -math.inf, 0).sum(-1)  # what is masked has no probability


def _agreement(small: Tensor, dense: Tensor) -> Tensor:
    return _classes(small).argmax(-1).eq(_classes(dense).argmax(-1)).double()


def _classes(logits: Tensor) -> Tensor:
    """The classes last: ``[N]``, ``[N, C]``, ``[N, T, C]`` or ``[N, C, H, W]``, as losses have them."""
    return logits[:, None] if logits.ndim < 2 else logits.movedim(1, -1) if logits.ndim > 3 else logits


def _nearness(small: Tensor, dense: Tensor) -> Tensor:
    small, dense = (value.reshape(len(value), -1) for value in (small, dense))
    return -(small - dense).norm(dim=1) / dense.norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)


KINDS = {
    "kl": ("negative KL to the original", _divergence),
    "top1": ("top-1 agreement with the original", _agreement),
    "error": ("negative relative output error", _nearness),
}


def _on_cpu(output: Any) -> Any:
    """An output where the batch's labels are."""
    return pytree.tree_map_only(Tensor, Tensor.cpu, output)


def _compared(output: Any, dense_output: Any) -> list[tuple[Tensor, Tensor]]:
    """The outputs that both models return for each sample, in float64."""
    found = [
        (small.double().cpu(), dense.double().cpu())
        for small, dense in zip(*map(pytree.tree_leaves, (output, dense_output)), strict=True)
        if isinstance(dense, Tensor) and dense.is_floating_point()
    ]
    if not found:
        raise ValueError(
            "the model returns no floating-point tensor that could be compared with the original's; give evaluate="
        )
    counts = Counter(len(dense) for _, dense in found if dense.ndim)
    if not counts:
        raise ValueError("the model returns one number for the whole batch; give evaluate= with a score a sample")
    ((samples, _),) = counts.most_common(1)
    return [(small, dense) for small, dense in found if dense.ndim and len(dense) == samples and dense.numel()]


def _vector(scores: Any) -> np.ndarray:
    values = torch.as_tensor(scores).detach().cpu().double()
    if values.ndim != 1:
        raise ValueError(f"the score of a batch has the shape {tuple(values.shape)}; return one number a sample, [N]")
    return values.numpy()


@dataclass(frozen=True)
class Leading:
    """The first elements of a batch as positional inputs."""

    count: int

    def __call__(self, batch: Any) -> Any:
        return tuple(batch[: self.count]) if isinstance(batch, list | tuple) else batch


def fitted(evaluate: Any, example_inputs: Any) -> Any:
    """A fidelity takes as many elements of a tuple as the model has inputs; labels, which it needs not, come last."""
    several = isinstance(example_inputs, tuple) and len(example_inputs) > 1
    if several and isinstance(evaluate, Fidelity) and evaluate.inputs is None:
        return replace(evaluate, inputs=Leading(len(example_inputs)))
    return evaluate


def whole_score(
    evaluate: Evaluation | Callable[[nn.Module], Any], model: nn.Module, which: str = "original"
) -> np.ndarray:
    """The scores of a model: one a sample, or a single one where the user's function returns a number.

    ``which`` is what it is called in errors.

    Raises
    ------
    ValueError
        A score is not a finite number.
    """
    if isinstance(evaluate, Evaluation):
        scores = evaluate.scores(model)
    else:
        with evaluating(model):
            scores = number_or_vector(evaluate(model), evaluate)
    check_finite(scores, evaluate, which)
    return scores


def scores_of(
    test: Evaluation | Callable[[nn.Module], Any], dense: nn.Module, small: nn.Module, progress: bool = False
) -> np.ndarray:
    """The scores of a model, of which some compare it with the original."""
    which = "original" if small is dense else "smaller"
    if progress and isinstance(test, Evaluation):
        test = replace(test, batches=tqdm(test.batches, f"score {which}", unit="batch"))
    if not isinstance(test, Fidelity):
        return whole_score(test, small, which)
    scores = []
    with evaluating(dense), evaluating(small), torch.no_grad():
        for batch in test.batches:
            inputs = test.inputs_of(batch)
            scores.append(test.batch_scores(inputs(small), inputs(dense), batch))
    found = np.concatenate(scores)
    check_finite(found, test, which)
    return found


def number_or_vector(score: Any, evaluate: Any) -> np.ndarray:
    """What a user's function returned, as ``[N]``; a number is ``[1]``."""
    try:
        if isinstance(score, tuple):  # a score and a loss, say: their mean would be neither
            raise TypeError
        scores = torch.as_tensor(score).detach().cpu().double()
    except (TypeError, ValueError, RuntimeError):
        what = f"returned a {type(score).__name__}"
    else:
        if scores.ndim < 2:
            return np.atleast_1d(scores.numpy())
        what = f"returned what has the shape {tuple(scores.shape)}"
    raise ValueError(f"the evaluation {name_of(evaluate)!r} {what}; return one number, or one a sample, [N]")


def check_finite(scores: np.ndarray, evaluate: Any, which: str = "original") -> None:
    """Refuse an evaluation that scores a model with NaN or infinity, or not at all."""
    bad = np.flatnonzero(~np.isfinite(scores))
    if bad.size:
        raise ValueError(
            f"the evaluation {name_of(evaluate)!r} returned {scores[bad[0]]} for the {which} model"
            + (f" (sample {bad[0]} of {len(scores)})" if len(scores) > 1 else "")
            + "; it must return finite numbers, higher is better"
        )
    if not scores.size:
        raise ValueError(f"the evaluation {name_of(evaluate)!r} has no data; give it at least one batch")


def name_of(evaluate: Any) -> str:
    """What people call an evaluation."""
    if isinstance(evaluate, Evaluation):
        return evaluate.name
    return getattr(evaluate, "__qualname__", type(evaluate).__qualname__)


def fingerprint_of(evaluate: Any, baseline: np.ndarray) -> str:
    """Name, source and the original model's own scores: changes when the evaluation does."""
    function = evaluate.score if isinstance(evaluate, Evaluation) else evaluate
    digest = hashlib.sha256(f"{name_of(evaluate)}\n{source_of(function)}".encode() + np.round(baseline, 6).tobytes())
    return f"sha256:{digest.hexdigest()[:16]}"


def source_of(function: Any) -> str:
    """A hash of a function's source, or of its type's name where there is none."""
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        source = repr(type(function))
    return f"sha256:{hashlib.sha256(source.encode()).hexdigest()[:16]}"
