"""The evaluation's data in blocks: each a random sample, so that a search can stop before it has seen all of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from workbench.evaluation import Evaluation, check_finite
from workbench.graph.agreement import Agreement
from workbench.graph.inputs import content_of
from workbench.graph.trace import ChannelGraph

FIRST = 128  # samples in the first block; each further one doubles what has been seen


@dataclass(frozen=True)
class Sample:
    """Which sample belongs to which block, and the original's score of each, in the order of the data.

    Where batches cannot be cut (a fixed batch, or data that is more than tensors) there is one block with everything.
    """

    evaluate: Evaluation
    dense: np.ndarray
    block: np.ndarray
    batch: int  # samples in the largest batch
    fingerprint: str  # of the inputs and of what the original scores on them

    @classmethod
    @torch.no_grad()
    def of(cls, graph: ChannelGraph, evaluate: Evaluation, seed: int) -> Sample:
        """Score the original on all data, and draw the blocks.

        Raises
        ------
        ValueError
            The evaluation does not score the original with finite numbers, has no data, or data of a size at which the
            model is another.
        """
        program, agreement = graph.program, Agreement(graph.model, graph.program, graph.inputs)
        dense: list[np.ndarray] = [np.empty(0)]
        digest = hashlib.sha256()
        divisible = program.any_batch
        for batch in evaluate.batches:
            inputs = evaluate.inputs_of(batch)
            agreement.check(inputs)
            for tensor in inputs.tensors():
                digest.update(content_of(tensor))
            output = program(inputs)
            dense.append(evaluate.batch_scores(output, output, batch))
            check_finite(dense[-1], evaluate)
            divisible &= _divisible(batch, len(dense[-1]))
        scores = np.concatenate(dense)
        check_finite(scores, evaluate)
        block = np.zeros(len(scores), np.int64)
        if divisible:
            block[np.random.default_rng(seed).permutation(len(scores))] = np.searchsorted(
                looks(len(scores)), np.arange(len(scores)), side="right"
            )
        digest.update(np.round(scores, 6).tobytes())
        return cls(evaluate, scores, block, max(map(len, dense)), f"sha256:{digest.hexdigest()[:16]}")

    @property
    def blocks(self) -> int:
        """How many there are."""
        return int(self.block.max()) + 1

    def dense_of(self, block: int) -> np.ndarray:
        """The original's scores in a block."""
        return self.dense[self.block == block]

    def batches(self, block: int) -> Iterator[Any]:
        """The data of a block, in the order of the data, in batches about as large as the user's own."""
        if self.blocks == 1:
            yield from self.evaluate.batches
            return
        first, waiting = 0, []
        for batch in self.evaluate.batches:
            size = _size(batch)
            (rows,) = np.nonzero(self.block[first : first + size] == block)
            first += size
            if len(rows):
                waiting.append(_rows(batch, torch.from_numpy(rows)))
            if sum(map(_size, waiting)) >= self.batch:
                yield _joined(waiting)
                waiting = []
        if waiting:
            yield _joined(waiting)


def looks(count: int) -> list[int]:
    """How many samples have been seen after each block: twice as many each time, all of them at last."""
    seen = [FIRST << step for step in range(count.bit_length()) if 3 * (FIRST << step) <= 2 * count]
    return [*seen, count]


def _divisible(batch: Any, samples: int) -> bool:
    leaves = pytree.tree_leaves(batch)
    return all(isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) == samples for leaf in leaves)


def _size(batch: Any) -> int:
    return len(pytree.tree_leaves(batch)[0])


def _rows(batch: Any, rows: Tensor) -> Any:
    return pytree.tree_map(lambda leaf: leaf[rows.to(leaf.device)], batch)


def _joined(batches: Sequence[Any]) -> Any:
    return reduce(lambda one, other: pytree.tree_map(lambda a, b: torch.cat([a, b]), one, other), batches)
