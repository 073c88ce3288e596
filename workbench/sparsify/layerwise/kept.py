"""Finished layers on the disk: killed at any moment, the same call goes on behind the last of them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from workbench.reading import read_object
from workbench.sparsify.layerwise.step import Step
from workbench.whole import whole_file, write_text

FORMAT = "workbench layerwise 1"


class Kept:
    """One file a layer in a folder, and ``layerwise.json`` that says to what they belong; nothing without a folder.

    Raises
    ------
    ValueError
        The folder belongs to other settings, another model or other data.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, belongs: Mapping[str, str]):
        self.folder = None if folder is None else Path(folder)
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        wanted, head = {"format": FORMAT, **belongs}, self.folder / "layerwise.json"
        remedy = "give another store=, or delete this one"
        if not head.exists():
            write_text(head, json.dumps(wanted, indent=1))
            return
        found = read_object(head, remedy)
        for name, value in wanted.items():
            if found.get(name) != value:
                raise ValueError(
                    f"the store {self.folder} belongs to another {name}: {found.get(name, 'none')} there, {value} "
                    f"here; {remedy}"
                )

    def get(self, layer: str, device: torch.device) -> tuple[dict[str, Tensor], Step] | None:
        """What was finished of a layer, on a device.

        Raises
        ------
        ValueError
            Its file is damaged.
        """
        path = self._path(layer)
        if path is None or not path.exists():
            return None
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                step = Step(**json.loads((file.metadata() or {}).get("step", "{}")))
                return {name: file.get_tensor(name) for name in file.keys()}, step  # noqa: SIM118  # it is no dict
        except (SafetensorError, ValueError, TypeError) as error:
            raise ValueError(f"{path} is damaged; delete it, and {layer} is pruned again") from error

    def add(self, layer: str, tensors: Mapping[str, Tensor], step: Step) -> None:
        """Keep what is finished: written beside and renamed, so that it is whole or not there."""
        path = self._path(layer)
        if path is not None:
            with whole_file(path) as beside:
                save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, beside,
                          metadata={"step": json.dumps(asdict(step))})  # fmt: skip

    def _path(self, layer: str) -> Path | None:
        safe = layer.replace(os.sep, "_")  # a module's name has dots, and nothing else that a path knows
        return None if self.folder is None else self.folder / f"layer.{safe}.safetensors"
