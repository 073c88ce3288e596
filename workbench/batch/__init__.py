"""Batches: many models, budgets and methods from one job file, over a night that may be interrupted.

    job file --read_jobs--> Jobs --runs_of--> Runs --plan--> tasks, each one search and all its runs --run--> folders

A task is one process that traces, calibrates and searches once and then makes each of its runs. Whatever is finished
is on the disk under its final name, so the same command goes on where the last one stopped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.batch.runner import run

__all__ = ["run"]


def __getattr__(name: str) -> Any:
    if name != "run":
        raise AttributeError(f"module 'workbench.batch' has no attribute {name!r}")
    from workbench.batch.runner import run  # here and not above: checking a job file must stay cheap

    return run
