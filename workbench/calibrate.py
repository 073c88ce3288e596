"""``calibrate``: one pass over the calibration data gathers the second moments of every prunable layer's input."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from tqdm.auto import tqdm

from workbench.blocks import Blocks
from workbench.draws import seed_of
from workbench.fisher import FisherFactors, gather_fisher
from workbench.graph.agreement import Agreement
from workbench.graph.inputs import Inputs, check_repeats, content_of
from workbench.graph.trace import ChannelGraph, Layer
from workbench.moments import Moments
from workbench.patches import Patches
from workbench.signals import Loss, Signals, gather_signals
from workbench.spill import Memory, Spill

ROWS = 40_000  # a layer: enough for 4,600 unknowns (3 x 3 x 512) eight times over
MEMORY = 1 << 30  # bytes
HELD_OUT = 4  # every fourth sample is kept back to choose the ridge and to check the repair


@dataclass(frozen=True)
class Evidence:
    """What a repair of one layer is fitted to, and what it is checked on."""

    fit: Moments
    held_out: Moments

    @property
    def all(self) -> Moments:
        """Both together."""
        return self.fit + self.held_out

    def of(self, columns: Sequence[int]) -> Evidence:
        """That of some columns alone."""
        return Evidence(self.fit.of(columns), self.held_out.of(columns))

    def outputs(self, some: Tensor) -> Evidence:
        """That of some outputs alone."""
        return Evidence(self.fit.outputs(some), self.held_out.outputs(some))

    def __add__(self, other: Evidence) -> Evidence:
        return Evidence(self.fit + other.fit, self.held_out + other.held_out)


def _leaves(evidence: Evidence) -> tuple[list[Any], None]:
    return [getattr(moments, f.name) for moments in (evidence.fit, evidence.held_out) for f in fields(Moments)], None


def _evidence(leaves: Iterable[Any], _context: None) -> Evidence:
    parts, size = list(leaves), len(fields(Moments))
    return Evidence(Moments(*parts[:size]), Moments(*parts[size:]))


pytree.register_pytree_node(Evidence, _leaves, _evidence)  # so that it can wait on disk


@dataclass(frozen=True)
class Statistics:
    """The evidence of each layer that reads a channel group, by the layer's name; more where it was asked for."""

    layers: Mapping[str, Evidence]
    samples: int
    fingerprint: str
    signals: Signals = field(default_factory=dict)
    fisher: FisherFactors = field(default_factory=dict)
    no_fisher: str = ""  # why it could not be gathered, though it was asked for

    def __repr__(self) -> str:
        return f"Statistics({len(self.layers)} layers, {self.samples} samples)"


def calibrate(
    graph: ChannelGraph, calibration: Iterable[Any], *, needs: Collection[str] = (), loss: Loss | None = None,
    rows: int = ROWS, memory: int = MEMORY, seed: int = 0, progress: bool = False, also: Sequence[Layer] = (),
) -> Statistics:  # fmt: skip
    """Gather second moments of every layer whose inputs can be pruned, and of what it makes of them.

    Parameters
    ----------
    graph : what ``trace`` found
    calibration : yields model inputs (a tensor, a tuple or a dict) and nothing else; can be gone over again
    needs : what is needed besides: ``"signals"`` of activations and ``"gradients"`` of gates on units by a criterion,
        ``"fisher"`` information of the layers' outputs by a prediction
    loss : ``loss(output, inputs)``, summed over samples, for the gradients; by default the cross-entropy against labels
        drawn from the model's own output
    rows : at most about this many rows a layer are kept, drawn at random places, the same in all samples of a batch
    memory : bytes that the moments may take: what does not fit is gathered in another pass over the data, and what was
        gathered before waits on disk
    seed : of that draw
    also : layers of which the same is gathered though their inputs cannot be pruned

    Raises
    ------
    ValueError
        The calibration data is empty, can be read only once, or is of a size at which the model is another.
    """
    batches = Batches.of(calibration)
    read = {layer.node: layer for group in graph.exact for layer in graph.consumers[group.name]}
    read |= {layer.node: layer for layer in also}
    readers = {node: Reader.of(layer, graph, rows, batches.samples, seed) for node, layer in read.items()}
    layers: MutableMapping[str, Evidence] = Spill(Memory(memory))
    for some in _rounds(readers, memory):
        for place, found in _gather(graph, some, batches, progress).items():
            name = read[place].name  # a layer called twice has the rows of both calls
            layers[name] = layers[name] + found if name in layers else found
    asked = {"signals", "gradients"} & set(needs)
    signals = gather_signals(graph, batches, gradients="gradients" in needs, loss=loss, seed=seed) if asked else {}
    fisher: FisherFactors = {}
    why = ""
    if "fisher" in needs:
        try:
            fisher = gather_fisher(graph, batches, loss=loss, seed=seed, also=also)
        except Exception as error:  # no derivative, no float output, a loss of the user's that raises
            why = f"{type(error).__name__}: {error}".splitlines()[0]
    return Statistics(layers, batches.samples, batches.fingerprint, signals, fisher, why)


def _rounds(readers: Mapping[str, Reader], memory: int) -> Iterator[dict[str, Reader]]:
    """The readers in the order of the layers, as many at a time as their moments fit into memory, one at least."""
    some: dict[str, Reader] = {}
    size = 0
    for node, reader in readers.items():
        if some and size + reader.nbytes > memory:
            yield some
            some, size = {}, 0
        some[node] = reader
        size += reader.nbytes
    if some:
        yield some


def _gather(
    graph: ChannelGraph, readers: Mapping[str, Reader], batches: Batches, progress: bool
) -> dict[str, Evidence]:
    """One pass over the data, up to the last layer that is read."""
    evidence = {node: reader.empty() for node, reader in readers.items()}
    last = max(place for place, node in enumerate(graph.program.nodes) if node.name in readers)
    seen, agreement = 0, Agreement(graph.model, graph.program, graph.inputs)
    with torch.no_grad():
        for inputs in tqdm(batches, "calibrate", disable=not progress, unit="batch"):
            with _fitting(inputs, graph.inputs):
                agreement.check(inputs)
                values = graph.program.start(inputs)
                for node in graph.program.nodes[: last + 1]:
                    reader = readers.get(node.name)
                    graph.program.run([node], values)
                    if reader:
                        how = reader.how
                        reader.gather(evidence[node.name], values[how.input], values[how.target], seen)
                    graph.program.forget(node, values)
            seen += inputs.batch or 1
    for name, found in evidence.items():
        if not (found.fit.finite and found.held_out.finite):
            raise ValueError(
                f"what layer {readers[name].layer.name} reads or gives on the calibration data is too large, or not "
                "finite: sums of its squares overflow; scale the inputs as in training, or use model.double()"
            )
    return evidence


@contextmanager
def _fitting(given: Inputs, example: Inputs) -> Iterator[None]:
    """Data of other dimensions than the example inputs, or that fails and is of another dtype, is refused for that."""
    shapes, dtypes = given.unlike(example)
    if shapes:
        raise ValueError(
            f"a batch of the calibration data has the dimensions {shapes}, as the example inputs; give batches, with "
            "the samples in the first dimension: DataLoader(..., batch_size=64), or x[None] for each"
        )
    try:
        yield
    except RuntimeError as error:
        if not dtypes:
            raise
        raise ValueError(
            f"the model does not run on the calibration data, which is {dtypes}, as the example inputs; convert it: "
            "x.to(dtype)"
        ) from error


@dataclass(frozen=True)
class Reader:
    """Draws rows of one layer, the same number from every sample."""

    layer: Layer
    how: Patches | Blocks
    per_sample: int
    generator: torch.Generator

    @classmethod
    def of(cls, layer: Layer, graph: ChannelGraph, rows: int, samples: int, seed: int) -> Reader:
        """A reader that draws about ``rows`` rows from ``samples`` samples."""
        generator = torch.Generator().manual_seed(seed_of(f"{seed} {layer.name}"))  # each layer's draw is its own
        how = Blocks.of(layer, graph) or Patches.of(layer, graph.program)
        return cls(layer, how, max(1, -(-rows // samples)), generator)

    @property
    def size(self) -> tuple[int, int, int]:
        """Groups, and of each the columns and outputs."""
        if isinstance(self.how, Blocks):
            return 1, len(self.how.columns), len(self.how.columns)
        return self.layer.groups, self.layer.shape[1:].numel(), self.layer.shape[0] // self.layer.groups

    @property
    def nbytes(self) -> int:
        """What its evidence takes."""
        groups, columns, outputs = self.size
        return 2 * 8 * groups * ((columns + 1) * (columns + 1 + outputs) + outputs)

    def empty(self, columns: Sequence[int] | None = None) -> Evidence:
        """Evidence of this layer's shape, or of some of its columns, without rows."""
        groups, whole, outputs = self.size
        return Evidence(*(Moments.empty(groups, whole if columns is None else len(columns), outputs) for _ in range(2)))

    def gather(
        self, evidence: Evidence, inputs: Tensor, outputs: Tensor, first: int, columns: Sequence[int] | None = None
    ) -> None:
        """Add rows of a batch whose first sample has this number: what the layer reads, and what should come out."""
        positions = self.how.positions(outputs, self.per_sample, self.generator)
        kept_back = torch.arange(first, first + len(inputs)) % HELD_OUT == HELD_OUT - 1
        for moments, some in ((evidence.fit, ~kept_back), (evidence.held_out, kept_back)):
            if some.any():
                rows = self.how.rows(inputs[some], positions, columns)
                moments.add(rows, self.how.targets(outputs[some], positions))


@dataclass(frozen=True)
class Batches:
    """Calibration data that can be gone over again and is known by its content."""

    source: Iterable[Any]
    samples: int
    count: int
    fingerprint: str

    @classmethod
    def of(cls, calibration: Any) -> Batches:
        """Read the data once: count it, take its fingerprint.

        Raises
        ------
        ValueError
            It is empty, holds NaN or infinity, comes in another order each time, or can be read only once.
        TypeError
            It cannot be iterated over.
        """
        if isinstance(calibration, Batches):
            return calibration
        if isinstance(calibration, Tensor):
            calibration = list(calibration.split(128))
        if not isinstance(calibration, Iterable):
            raise TypeError(
                f"the calibration data is a {type(calibration).__name__}; give a list, a DataLoader or anything that "
                "yields batches of model inputs"
            )
        if iter(calibration) is calibration:
            raise ValueError(
                "the calibration data is a generator that can be read only once; give a list, a DataLoader or any "
                "object whose iteration starts anew each time"
            )
        check_repeats(calibration, "the calibration data")
        digest, samples, count = hashlib.sha256(), 0, 0
        for inputs in map(Inputs.of, calibration):
            for tensor in inputs.tensors():
                if not tensor.isfinite().all():
                    bad = tensor[~tensor.isfinite()][0].item()
                    raise ValueError(
                        f"the calibration data holds {bad} in batch {count}; repair or leave out these samples"
                    )
                digest.update(str((tensor.dtype, tuple(tensor.shape))).encode())
                digest.update(content_of(tensor))
            samples, count = samples + (1 if inputs.batch is None else inputs.batch), count + 1
        if not samples:
            raise ValueError("the calibration data is empty; it must yield at least one batch of model inputs")
        if samples < HELD_OUT:
            raise ValueError(f"the calibration data has {samples} samples; {HELD_OUT} are the least, 512 a good number")
        return cls(calibration, samples, count, f"sha256:{digest.hexdigest()[:16]}")

    def __iter__(self) -> Iterator[Inputs]:
        return map(Inputs.of, iter(self.source))

    def __len__(self) -> int:
        return self.count
