"""From a job file to single runs: every combination of models, methods, budgets, multiples and seeds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

from workbench.batch.checks import is_folder
from workbench.batch.jobfile import Jobs
from workbench.batch.schema import CRITERIA, METHODS, BadJobs, Job, Method, Settings

MOST = 10_000  # runs of a batch
SHARED = ("model", "architecture", "inputs", "calibration", "evaluate", "test", "criterion", "mode", "methods", "seed")


@dataclass(frozen=True)
class Run:
    """One model under one budget by one method: what is kept in ``job.json`` of its folder.

    ``time_limit`` is in seconds, ``memory_limit`` in bytes; both are no part of what a run is.
    """

    name: str
    model: str
    budget: Mapping[str, Any]
    method: str = "elimination"
    criterion: str = "elimination"
    mode: str = "auto"
    refinement: int = 300
    evaluations: int = 0
    methods: tuple[str, ...] = METHODS
    seed: int = 0
    architecture: str | None = None
    inputs: str | None = None
    calibration: str | None = None
    evaluate: str | None = None
    test: str | None = None
    export: tuple[str, ...] = ()
    time_limit: float | None = None
    memory_limit: float | None = None

    @property
    def search(self) -> str:
        """The same for runs that share trace, calibration and curves."""
        text = json.dumps([getattr(self, name) for name in SHARED])
        return f"{_word(self.model)}-{self.criterion}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"budget": dict(self.budget), "export": list(self.export), "methods": list(self.methods)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Run:
        """The run that ``to_dict`` wrote."""
        return cls(**{**data, **{name: tuple(data[name]) for name in ("export", "methods")}})

    def differs(self, other: Run) -> str:
        """The first thing in which another run is not the same; empty where there is none."""
        here, there = (replace(run, time_limit=None, memory_limit=None).to_dict() for run in (self, other))
        return next((key for key, value in here.items() if value != there[key]), "")


def runs_of(jobs: Jobs) -> list[Run]:
    """All runs of a job file, in its order.

    Raises
    ------
    BadJobs
        Two of them would have the same folder, or they are too many.
    """
    found: dict[str, Run] = {}
    for number, job in enumerate(jobs.file.jobs):
        for run in _runs(_merged(job, jobs.file.defaults), jobs.file.methods):
            if run.name in found:
                raise BadJobs(jobs.source, [f'jobs[{number}]: makes the run "{run.name}" again; give the job a name'])
            found[run.name] = run
            if len(found) > MOST:
                raise BadJobs(jobs.source, [f"jobs[{number}]: makes more than {MOST:,} runs; split the job file"])
    return list(found.values())


def _merged(job: Job, defaults: Settings) -> Job:
    given = {name: getattr(defaults, name) for name in Settings.model_fields}
    return job.model_copy(update={name: value for name, value in given.items() if getattr(job, name) is None})


def _runs(job: Job, methods: Mapping[str, Method]) -> Iterator[Run]:
    known = {name: Method(criterion=name) for name in CRITERIA} | dict(methods)
    axes = (job.model or [], job.method or ["elimination"], job.budget or [], job.multiple or [0], job.seed or [0])
    for model, name, share, multiple, seed in product(*axes):
        budget = share.budget(multiple).to_dict()
        method = known[name]
        yield Run(
            _name(job.name, model, name, budget, seed), model, budget, name, method.criterion, method.mode,
            method.refinement, method.evaluations, tuple(method.methods), seed, job.architecture, job.inputs,
            job.calibration, job.evaluate, job.test, tuple(job.export or ()), job.time_limit, job.memory_limit,
        )  # fmt: skip


def _name(job: str | None, model: str, method: str, budget: Mapping[str, Any], seed: int) -> str:
    """The same for the same run, whatever else the file asks for."""
    shares = "-".join(f"{name}{value:g}" for name, value in budget.items() if name != "multiple")
    parts = [job, _word(model), method, shares]
    parts += [f"multiple{budget['multiple']}"] if budget["multiple"] > 1 else []
    return "-".join(filter(None, [*parts, f"seed{seed}" if seed else ""]))


def _word(model: str) -> str:
    """A model as a part of a folder's name."""
    word = model.rstrip("/").rpartition("/")[2] if is_folder(model) else model.rpartition(":")[2]
    word = "".join(sign if sign.isascii() and (sign.isalnum() or sign in "_-.") else "_" for sign in word[:64])
    return word.strip(".") or "model"
