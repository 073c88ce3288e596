"""Training that was interrupted: model, optimiser and progress in one safetensors file, never a pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from workbench.graph.inputs import content_of
from workbench.whole import whole_file

FORMAT = "workbench finetune 2"


def save(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, progress: Mapping[str, Any]) -> None:
    """All in one file, written beside and renamed: it is whole whenever the process is killed."""
    found: dict[str, Tensor] = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    plain: dict[str, Any] = {}
    for index, entries in optimiser.state_dict()["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                found[f"optimizer.{index}.{name}"] = value
            elif value is None or isinstance(value, bool | int | float):
                plain[f"{index}.{name}"] = value
            else:
                kind = type(optimiser).__name__
                raise ValueError(f"{name} of {kind} is a {type(value).__name__}, not a number; leave checkpoint out")
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in found.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as beside:
        save_file(state, beside, metadata={"progress": json.dumps({"format": FORMAT, **progress, "plain": plain})})


def load(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, wanted: Mapping[str, Any]) -> list[float]:
    """Put a checkpoint's values into model and optimiser; returns the losses of its epochs.

    Raises
    ------
    ValueError
        It is no checkpoint, or one of other settings than those ``wanted``.
    """
    wanted = {"format": FORMAT, **wanted}
    try:
        with safe_open(path, framework="pt") as file:
            progress = json.loads((file.metadata() or {}).get("progress", "{}"))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is no checkpoint of finetune; remove it or name another") from error
    other = [name for name, value in wanted.items() if progress.get(name) != value]
    if other:
        raise ValueError(
            f"{path} was made with another {other[0]} ({progress.get(other[0])!s:.200}, now "
            f"{wanted[other[0]]!s:.200}); remove it or name another"
        )
    model.load_state_dict({name[6:]: tensor for name, tensor in state.items() if name.startswith("model.")})
    entries: dict[int, dict[str, Any]] = {}
    tensors = {name[10:]: tensor for name, tensor in state.items() if name.startswith("optimizer.")}
    for key, value in (progress["plain"] | tensors).items():
        index, name = key.split(".", 1)
        entries.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict(optimiser.state_dict() | {"state": entries})
    return list(progress["losses"])


def digest_of(model: nn.Module) -> str:
    """Of all that a model's state holds."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(content_of(tensor))
    return digest.hexdigest()[:16]
