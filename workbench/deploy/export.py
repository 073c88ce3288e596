"""What all exports share: the exported program, the check against the eager model, a file that appears whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from workbench.deploy.int8 import Int8, Quantized
from workbench.errors import Refused
from workbench.evaluation import whole_score
from workbench.graph.comparison import relative_error
from workbench.graph.inputs import Inputs
from workbench.graph.modes import evaluating

Run = Callable[[Inputs], Sequence[Tensor]]  # the exported file, on some inputs


@dataclass(frozen=True)
class Exported:
    """An exported file that was loaded again and compared with the eager model.

    ``worst`` is the largest relative difference of any output, at ``batches`` samples; ``any_batch`` says whether other
    batch sizes run, too. Of a file in int8, ``int8`` says what that costs, and ``worst`` is of the float file before.
    """

    path: Path
    worst: float
    any_batch: bool
    batches: tuple[int, ...]
    int8: Quantized | None = None

    def beside(self, original: nn.Module, int8: Int8) -> Exported:
        """The same, with the score of a model that came before the exported one."""
        if self.int8 is None or int8.evaluate is None:
            return self
        before = float(whole_score(int8.evaluate, original).mean())
        return replace(self, int8=replace(self.int8, scores={"original": before, **self.int8.scores}))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, and the bytes of the file."""
        return {
            "path": str(self.path), "bytes": self.path.stat().st_size, "worst": self.worst,
            "any_batch": self.any_batch, "int8": self.int8.to_dict() if self.int8 else None,
        }  # fmt: skip

    def __repr__(self) -> str:
        size = sum(file.stat().st_size for file in self.path.parent.glob(f"{self.path.name}*"))
        batch = "any batch" if self.any_batch else f"batches of {self.batches[0]} only"
        also = f", {self.int8!r}" if self.int8 else ""
        return f"Exported({self.path}: {size / 1e6:.2f} MB, {batch}, within {self.worst:.1e} of the eager model{also})"


def checked(model: nn.Module, inputs: Inputs, run: Run, any_batch: bool, what: str) -> tuple[float, tuple[int, ...]]:
    """The largest difference between a file and the eager model, and the batch sizes at which it was looked for.

    Raises
    ------
    Refused
        They differ by more than the root of the precision.
    """
    batches = (1, 3) if any_batch else (inputs.batch or 1,)
    worst = 0.0
    for batch in batches:
        some = inputs.take(batch).telling()
        with evaluating(model), torch.no_grad():
            expected = tensors_in(some(model))
        try:
            found = run(some)
        except Exception as failed:  # of the engine, which has no common base for them
            raise Refused(
                what, type(model).__name__, f"the written file does not run ({str(failed).strip().splitlines()[0]})",
                "report this to the engine; nothing was written",
            ) from failed  # fmt: skip
        for one, other in zip(expected, found, strict=True):
            error = relative_error(one.cpu(), other.cpu())
            allowed = torch.finfo(one.dtype).eps ** 0.5 if one.is_floating_point() else 0.0
            if not error <= allowed:
                raise Refused(
                    what, type(model).__name__, f"the file gives other numbers than the eager model (by {error:.1e}, "
                    f"relative, in a batch of {batch})", "report this; nothing was written",
                )  # fmt: skip
            worst = max(worst, error)
    return worst, batches


def tensors_in(output: Any) -> list[Tensor]:
    """All tensors that a model returns, in order."""
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


@contextmanager
def whole_files(path: Path) -> Iterator[Path]:
    """A path to write to; what is there at the end is moved to the given one, with the files beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        yield Path(folder) / path.name
        for file in Path(folder).iterdir():
            os.replace(file, path.parent / file.name)
