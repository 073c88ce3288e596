"""Int8 by onnxruntime's own quantiser: what is asked for, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from workbench.calibrate import Batches
from workbench.evaluation import Evaluation
from workbench.graph.inputs import Inputs
from workbench.refine.split import Split

LEAST = 16  # samples: of fewer, nothing can be held out and ranges still be known


@dataclass(frozen=True)
class Int8:
    """How a file gets int8 weights and activations.

    Parameters
    ----------
    calibration : model inputs and nothing else, as for ``Study``; every fourth sample is held out, and decides
    evaluate : a score of a model, as for ``Study``, of which the float and the int8 file are told; by default minus the
        relative error of the outputs on the held-out samples
    dynamic : scales of activations found anew in every run, for linear layers alone; by default where the model
        multiplies what it has computed with each other, as attention does. Else scales are found in the calibration
        data, for all operations that onnxruntime has in int8
    at_most : how much of the score may be lost; where it is more, the layers that int8 harms most stay float
    size_bytes : instead, how large the weights may be: as many layers stay float as fit, the best choice of them

    Raises
    ------
    ValueError
        There are too few samples, or a limit that makes no sense.

    Examples
    --------
    >>> import torch
    >>> Int8(torch.randn(64, 3)).batches.samples
    64
    """

    calibration: Iterable[Any]
    evaluate: Evaluation | Callable[[nn.Module], Any] | None = None
    dynamic: bool | None = None
    at_most: float | None = None
    size_bytes: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "calibration", Batches.of(self.calibration))
        if self.batches.samples < LEAST:
            raise ValueError(
                f"the calibration data of int8 has {self.batches.samples} samples; {LEAST} are the least, some hundred "
                "a good number"
            )
        if self.at_most is not None and self.size_bytes is not None:
            raise ValueError("give at_most= (of the score) or size_bytes=, not both")
        for name in ("at_most", "size_bytes"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}={value!r} must be above 0")
        if self.dynamic and (self.at_most or self.size_bytes):
            raise ValueError("dynamic=True has no at_most= and no size_bytes=; leave out one or the other")

    @property
    def batches(self) -> Batches:
        """The calibration data, counted."""
        assert isinstance(self.calibration, Batches)
        return self.calibration

    def split(self) -> tuple[list[Inputs], list[Inputs]]:
        """What scales are found in, and what decides: every fourth sample over all batches."""
        split = Split(self.batches, self.batches.samples, size=1, whole=False)  # asked for all, a fourth are held out
        return list(split.fitted), list(split.judging)


@dataclass(frozen=True)
class Step:
    """One way to quantise: the relative error of the held-out outputs, the score, and whether it was used."""

    name: str
    error: float
    score: float
    used: bool


@dataclass(frozen=True)
class Quantized:
    """What int8 has cost.

    ``error`` is the mean over ``samples`` held-out samples of |int8 - eager| / |eager|; ``steps`` what was tried, in
    order; ``float_layers`` the nodes of layers that stay float; ``scores`` those by ``score`` of each stage.
    """

    dynamic: bool
    error: float
    steps: tuple[Step, ...]
    float_layers: tuple[str, ...]
    score: str
    scores: Mapping[str, float]
    samples: int

    def __repr__(self) -> str:
        scores = " -> ".join(f"{name} {value:.4g}" for name, value in self.scores.items())
        how = "dynamic" if self.dynamic else " + ".join(step.name for step in self.steps if step.used)
        left = f", {len(self.float_layers)} layers in float" if self.float_layers else ""
        return f"Quantized({how}{left}; {self.score}: {scores}; held-out error {self.error:.2g})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)
