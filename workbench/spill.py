"""Values that go to disk once they fill the memory that they may have."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils import _pytree as pytree


@dataclass(eq=False)
class Memory:
    """A number of bytes that several ``Spill`` share; ``used`` of them are. The files go with this object."""

    cap: int
    used: int = 0
    files: int = 0
    folder: Path | None = field(default=None, repr=False)

    def next_file(self) -> Path:
        """Where the next value is written."""
        if self.folder is None:
            self.folder = Path(tempfile.mkdtemp(prefix="workbench-"))
            weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.files += 1
        return self.folder / f"{self.files}.safetensors"


class Spill(MutableMapping[str, Any]):
    """A mapping from names to tensors, or structures of them, of which only some are in memory.

    What would exceed the cap is written to a file and read at each use, onto the device it came from.
    """

    def __init__(self, memory: Memory, values: Mapping[str, Any] | None = None):
        self.memory = memory
        self._held: dict[str, tuple[Any, int]] = {}
        self._spilled: dict[str, tuple[Path, list[Any], Any]] = {}
        self.hold(values or {})

    def hold(self, values: Mapping[str, Any]) -> None:
        """Add values that the caller holds anyway: they take no memory."""
        for name, value in values.items():
            self._drop(name)
            self._held[name] = value, 0

    def __setitem__(self, name: str, value: Any) -> None:
        self._drop(name)
        size = sum(leaf.nbytes for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor))
        if size and self.memory.used + size > self.memory.cap:
            self._write(name, value)
        else:
            self.memory.used += size
            self._held[name] = value, size

    def __getitem__(self, name: str) -> Any:
        if name in self._held:
            return self._held[name][0]
        path, leaves, spec = self._spilled[name]
        tensors = load_file(path)
        read = [tensors[str(i)].to(leaf) if isinstance(leaf, torch.device) else leaf for i, leaf in enumerate(leaves)]
        return pytree.tree_unflatten(read, spec)

    def __delitem__(self, name: str) -> None:
        if name in self._held:
            self.memory.used -= self._held.pop(name)[1]
        else:
            self._spilled.pop(name)[0].unlink()

    def __iter__(self) -> Iterator[str]:
        return iter((*self._held, *self._spilled))

    def __len__(self) -> int:
        return len(self._held) + len(self._spilled)

    def __contains__(self, name: object) -> bool:  # the inherited one would read the file
        return name in self._held or name in self._spilled

    def _drop(self, name: str) -> None:
        if name in self:
            del self[name]

    def _write(self, name: str, value: Any) -> None:
        leaves, spec = pytree.tree_flatten(value)
        path = self.memory.next_file()
        # a copy each: safetensors refuses what shares memory, as views of one value do
        copies = {str(i): leaf.detach().cpu().clone().contiguous() for i, leaf in enumerate(leaves)
                  if isinstance(leaf, Tensor)}  # fmt: skip
        save_file(copies, path)
        places = [leaf.device if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self._spilled[name] = path, places, spec
