"""Measurements: candidates are scored on one block of samples after another, and compared with the original on each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from tqdm.auto import tqdm

from workbench.sensitivity.candidate import Candidates, Widths
from workbench.sensitivity.ledger import Ledger
from workbench.sensitivity.run import Scores
from workbench.sensitivity.sample import Sample
from workbench.sensitivity.workers import Scorer

APPLIED = -1  # in the place of a block


class Measurements:
    """What was measured so far.

    Parameters
    ----------
    candidates, scorer, ledger : who makes candidates, who scores them, and where scores are kept
    sample : the blocks; None where a function is run whole, which is one block
    dense : the original's score of each sample
    retries : how often a candidate is tried again that failed
    """

    def __init__(
        self, candidates: Candidates, scorer: Scorer, ledger: Ledger, sample: Sample | None, dense: np.ndarray,
        retries: int, progress: bool = False,
    ):  # fmt: skip
        self.candidates, self.scorer, self.ledger = candidates, scorer, ledger
        self.sample, self.dense, self.retries, self.progress = sample, dense, retries, progress
        self.scores: dict[Widths, list[Scores]] = {}  # a block after another

    @property
    def blocks(self) -> int:
        """How many there are."""
        return self.sample.blocks if self.sample else 1

    def seen(self, widths: Widths) -> int:
        """How many blocks a candidate was scored on."""
        return len(self.scores.get(widths, ()))

    def add(self, several: Sequence[Widths], retries: int | None = None) -> None:
        """One more block of samples for some candidates; ``retries`` instead of the usual ones."""
        retries = self.retries if retries is None else retries
        by_block: dict[int, list[Widths]] = {}
        for widths in several:
            by_block.setdefault(self.seen(widths), []).append(widths)
        with tqdm(total=len(several), desc="sensitivity", disable=not self.progress, unit="point", leave=False) as bar:
            for block, some in sorted(by_block.items()):
                bar.update(sum(self.ledger.settled((widths, block), retries) for widths in some))
                while left := [widths for widths in some if not self.ledger.settled((widths, block), retries)]:
                    chunks = self.candidates.chunks(left, self.scorer.size(len(left)))
                    for candidate, found in self.scorer.scored(chunks, block):
                        unit = candidate.widths, block
                        self.ledger.add(unit, self._fitting(found, block))
                        bar.update(self.ledger.settled(unit, retries))
                for widths in some:
                    self.scores.setdefault(widths, []).append(self.ledger.found[widths, block])

    def add_until(self, several: Sequence[Widths], samples: int) -> None:
        """Blocks for some candidates until each was scored on so many samples, or on all; what fails is left."""
        sizes = np.cumsum([len(self.sample.dense_of(block)) for block in range(self.blocks)]) if self.sample else [1]
        for block in range(1 + int(np.searchsorted(sizes[:-1], samples))):
            self.add([widths for widths in several if self.seen(widths) == block], retries=0)

    def applied(self, widths: Widths, score: Callable[[], np.ndarray]) -> np.ndarray:
        """The scores of a model that was really made, on all samples; made and scored only if that was not done."""
        found = self.ledger.get((widths, APPLIED))
        if found is None or isinstance(found, str):
            found = score()
            self.ledger.add((widths, APPLIED), found)
        return found

    def _fitting(self, found: Scores, block: int) -> Scores:
        count = len(self.sample.dense_of(block)) if self.sample else len(self.dense)
        if isinstance(found, str) or len(found) == count:
            return found
        return f"the evaluation returned {len(found)} scores, and {count} for the original model"

    def dense_of(self, widths: Widths) -> np.ndarray:
        """The original's scores of the samples that a candidate was scored on."""
        if self.sample is None:
            return self.dense
        return np.concatenate([self.sample.dense_of(block) for block in range(self.seen(widths))])

    def differences(self, widths: Widths) -> np.ndarray | str:
        """How much lower each sample scores than with the original, or why that is not known."""
        failed = [found for found in self.scores[widths] if isinstance(found, str)]
        return failed[0] if failed else self.dense_of(widths) - np.concatenate(self.scores[widths])
