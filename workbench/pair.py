"""Two networks side by side on all the calibration data: the original, and one that changes layer by layer."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor
from torch.fx import Node

from workbench.calibrate import Batches, Evidence, Reader
from workbench.drift import Shortcut
from workbench.graph.program import Program, Values
from workbench.spill import Memory, Spill


class Pair:
    """Both as far as they have come, operation by operation; of the changed one only what differs is held.

    ``memory`` is how many bytes the values of both may take between two operations; the others wait on disk.
    ``changed`` are values of the changed network that differ from the beginning.
    """

    def __init__(self, program: Program, batches: Batches, memory: int, changed: Values | None = None):
        self.program = program
        sizes = [inputs.batch or 1 for inputs in batches]
        self.starts = [sum(sizes[:number]) for number in range(len(sizes))]
        shared = Memory(memory)
        self.original = [Spill(shared, program.start(inputs)) for inputs in batches]
        self.changed = [Spill(shared, changed) for _ in self.original]

    def run(self, node: Node) -> None:
        """One operation of the original."""
        for values in self.original:
            self.program.run([node], values)

    def follow(self, node: Node, compute: Callable[[Values], object]) -> None:
        """The same of the changed network, from its own values."""
        for values, changed in zip(self.original, self.changed, strict=True):
            changed[node.name] = compute(ChainMap(changed, values))

    def differs(self, name: str) -> bool:
        """Whether the changed network has another value there."""
        return name in self.changed[0]

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Other tensors of the model, by their names, from here on."""
        found = {place: tensors[name] for place, name in self.program.state.items() if name in tensors}
        for changed in self.changed:
            changed.hold(found)

    def forget(self, node: Node) -> None:
        """Drop what nobody needs after an operation."""
        for values in (*self.original, *self.changed):
            self.program.forget(node, values)

    def evidence(self, reader: Reader, columns: Sequence[int] | None = None, drift: bool = True) -> Evidence:
        """What the changed network reads at a layer, with what should come out: what the original makes there.

        With ``drift`` also what the changed network has lost on the shortcut past the layer.
        """
        how, layer = reader.how, reader.layer
        node = next(node for node in self.program.nodes if node.name == layer.node)
        shortcut = Shortcut.of(node, self.program) if drift and how.target == layer.node else None
        evidence = reader.empty(columns)
        for values, changed, first in zip(self.original, self.changed, self.starts, strict=True):
            source: Tensor = ChainMap(changed, values)[how.input]
            wanted: Tensor = values[how.target]
            lost = shortcut.drift(values, changed, wanted) if shortcut else None
            reader.gather(evidence, source, wanted if lost is None else wanted + lost, first, columns)
        return evidence
