"""Tasks: one search and the runs that share it, which is what one process does. Plain data, so that it can be sent."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.batch.jobfile import Jobs
from workbench.batch.runs import Run


@dataclass(frozen=True)
class Task:
    """What a process needs to know.

    ``budgets`` are those of all runs of the search, finished ones too: which points a search measures hangs on them,
    and a search that goes on must be the one that began. ``paths`` is where modules are looked for.
    """

    search: str
    runs: tuple[Run, ...]
    budgets: tuple[Mapping[str, Any], ...]
    out: str
    base: str
    paths: tuple[str, ...] = ()

    def to_json(self) -> str:
        """One line."""
        return json.dumps({**self.__dict__, "runs": [run.to_dict() for run in self.runs]})

    @classmethod
    def from_json(cls, text: str | bytes) -> Task:
        """The task that ``to_json`` wrote."""
        data = json.loads(text)
        runs = tuple(Run.from_dict(run) for run in data["runs"])
        return cls(data["search"], runs, tuple(data["budgets"]), data["out"], data["base"], tuple(data["paths"]))


def tasks_of(jobs: Jobs, runs: Sequence[Run], left: Sequence[Run], out: Path) -> list[Task]:
    """One task a search of which runs are left, in the order of the job file."""
    paths = [str(Path(path).resolve()) for path in sys.path]
    if jobs.file.import_from is not None:
        paths = [str((jobs.folder / jobs.file.import_from).resolve()), *paths]
    tasks = []
    for search in dict.fromkeys(run.search for run in left):
        budgets = [run.budget for run in runs if run.search == search]
        distinct = [budget for place, budget in enumerate(budgets) if budget not in budgets[:place]]
        some = tuple(run for run in left if run.search == search)
        tasks.append(Task(search, some, tuple(distinct), str(out.resolve()), str(jobs.folder), tuple(paths)))
    return tasks
