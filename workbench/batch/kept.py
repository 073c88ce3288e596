"""What ``job.json`` and ``failure.json`` hold, checked before any of it is believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from workbench.batch.runs import Run
from workbench.reading import read_object

FORMAT = 2
AGAIN = "delete its folder and run the batch again"


class _Kept(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Summary(_Kept):
    """The figures of a result that tables show; costs are shares of the original's."""

    macs: float | None
    params: float | None
    score: str
    before: float
    after: float
    difference: float
    interval: tuple[float, float] | None
    samples: int
    searched: str | None
    predicted_loss: float
    real_loss: float | None
    target_met: bool
    verified: bool


class Effort(_Kept):
    """What differs between two runs of the same work."""

    seconds: float
    peak_bytes: int


class Finished(_Kept):
    """``job.json``"""

    format: Literal[2]
    job: Run
    summary: Summary
    run: Effort


class Failed(_Kept):
    """``failure.json``"""

    format: Literal[2]
    job: Run
    reason: str
    step: str
    log: str


def read_kept(path: Path, kind: type[Finished] | type[Failed]) -> dict[str, Any]:
    """The content of a file, as plain values.

    Raises
    ------
    ValueError
        It is damaged, or of another version.
    """
    data = read_object(path, AGAIN)
    if type(data.get("format")) is not int or data["format"] != FORMAT:
        raise ValueError(f"{path} has the format {data.get('format')!r:.80}; this version of workbench reads {FORMAT}")
    try:
        kind.model_validate_json(json.dumps(data))
    except ValidationError as error:
        one = error.errors(include_url=False, include_input=False)[0]
        raise ValueError(f"{path} is damaged ({'.'.join(map(str, one['loc']))}: {one['msg']}); {AGAIN}") from error
    return data
