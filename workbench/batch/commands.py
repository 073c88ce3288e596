"""The command line of batches: ``workbench batch``, ``list``, ``compare`` and ``clean``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

DONE, FAILED = 0, 1


def add_batch(command: argparse.ArgumentParser) -> None:
    """The options of ``workbench batch``."""
    about = "a job file: .toml, or .yaml with workbench[yaml]"
    command.add_argument("jobs", type=Path, nargs="?", metavar="JOBS", help=about)
    command.add_argument("--check", action="store_true", help="only say what is wrong with the job file")
    command.add_argument("--schema", action="store_true", help="only print the job file's JSON Schema, for editors")
    command.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", dest="overrides",
        help="put a value into the job file, as defaults.seed=1 or jobs.0.budget=macs=0.3; may be repeated",
    )  # fmt: skip
    command.add_argument("--no-user-code", action="store_true", help="refuse package.module:function")


def batch(given: argparse.Namespace) -> int:
    """Check, show or run a job file."""
    if given.schema:
        from workbench.batch.schema import JobFile

        print(json.dumps(JobFile.model_json_schema(), indent=1))
        return DONE
    if given.jobs is None:
        raise ValueError("name a job file: workbench batch jobs.toml; examples/nightly.toml is one")
    from workbench.batch.jobfile import read_jobs
    from workbench.batch.runs import runs_of

    jobs = read_jobs(given.jobs, given.overrides, user_code=not given.no_user_code)
    runs = runs_of(jobs)
    searches = len({run.search for run in runs})
    found: dict[str, Any] = {"jobs": len(jobs.file.jobs), "runs": len(runs), "searches": searches}
    print(json.dumps(found) if given.json else f"{given.jobs}: {len(runs)} runs that share {searches} searches")
    return DONE
