"""Evaluations: how good is a model? Higher is better, always."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

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
    """Label-free: how near each sample's output is to the original model's.

    Parameters
    ----------
    kind : ``"kl"``, minus the Kullback-Leibler divergence of the softmax over the last dimension; ``"top1"``, whether
        the largest entry is the same (of several places in a sample, the share of them); ``"error"``, minus the norm
        of the difference over that of the original's output

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
        small, dense = (_logits(value).double().cpu() for value in (output, dense_output))
        if not dense.ndim:
            raise ValueError("the model returns one number for the whole batch; give evaluate= with a score a sample")
        if self.kind != "error" and (dense.ndim < 2 or dense.shape[-1] < 2):
            raise ValueError(
                f"the model returns one number a sample, of which there is no {self.kind}; give "
                "evaluate=Fidelity(batches, kind='error'), or a score of your own"
            )
        scores = self.score(small, dense)
        return scores.flatten(1).mean(1).numpy() if scores.ndim > 1 else scores.numpy()


def _divergence(small: Tensor, dense: Tensor) -> Tensor:
    small, dense = small.log_softmax(-1), dense.log_softmax(-1)
    return -(dense.exp() * (dense - small)).where(dense > -math.inf, 0).sum(-1)  # what is masked has no probability


def _agreement(small: Tensor, dense: Tensor) -> Tensor:
    return small.argmax(-1).eq(dense.argmax(-1)).double()


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


def _logits(output: Any) -> Tensor:
    found = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    if not found:
        raise ValueError(
            "the model returns no floating-point tensor that could be compared with the original's; give evaluate="
        )
    return found[0]


def _vector(scores: Any) -> np.ndarray:
    values = torch.as_tensor(scores).detach().cpu().double()
    if values.ndim != 1:
        raise ValueError(f"the score of a batch has the shape {tuple(values.shape)}; return one number a sample, [N]")
    return values.numpy()


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
