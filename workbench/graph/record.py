"""What a smaller model remembers of its making."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx, nn


@dataclass(frozen=True)
class Cut:
    """One dimension of one tensor and the indices that stay, in order. ``role`` and ``gather`` as in ``Member``."""

    tensor: str
    dim: int
    size: int
    kept: tuple[int, ...]
    role: str
    gather: bool = False

    @property
    def removed(self) -> tuple[int, ...]:
        """The indices that leave."""
        return tuple(sorted(set(range(self.size)) - set(self.kept)))


@dataclass(frozen=True)
class Factored:
    """A layer that became a sequence of smaller ones, by a method's name and a rank."""

    layer: str
    method: str
    rank: int


@dataclass(frozen=True)
class Record:
    """What a smaller model remembers of its making, for ``verify`` and ``save``.

    ``approximate`` names the ops whose meaning changed; ``rewritten`` says that its class is not the original's;
    ``lost`` says which constant contributions no bias could take up; ``factors`` which layers were then factorised.
    """

    cuts: tuple[Cut, ...]
    approximate: tuple[str, ...] = ()
    rewritten: bool = False
    submodule: str = ""  # the part that was made smaller
    lost: tuple[str, ...] = ()
    factors: tuple[Factored, ...] = ()


RECORD = "winnowed"


def remember(model: nn.Module, record: Record) -> nn.Module:
    """Put its record on a smaller model, where copies of the model keep it."""
    if isinstance(model, fx.GraphModule):
        model.meta[RECORD] = record
    else:
        setattr(model, RECORD, record)
    return model


def recorded(model: nn.Module) -> Record | None:
    """The record of a smaller model; None for any other."""
    found: Record | None = model.meta.get(RECORD) if isinstance(model, fx.GraphModule) else getattr(model, RECORD, None)
    return found
