"""The command line of batches: ``workbench batch``, ``list``, ``compare`` and ``clean``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.exits import DONE, FAILED, INTERRUPTED

if TYPE_CHECKING:
    from workbench.batch.jobfile import Jobs


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
    command.add_argument("--dry-run", action="store_true", help="only show what would be done")
    command.add_argument("--out", type=Path, metavar="FOLDER", help="where everything goes (default runs/JOBS)")
    command.add_argument("--workers", type=int, default=1, metavar="N", help="searches at a time (default 1)")
    command.add_argument("--dask", metavar="ADDRESS", help="of a Dask scheduler that all see FOLDER from; or local")
    command.add_argument(
        "--resume", action=argparse.BooleanOptionalAction, default=True,
        help="leave finished runs as they are, or make them anew (default: leave them)",
    )  # fmt: skip
    command.add_argument("--fail-fast", action="store_true", help="stop at the first failure; what is finished is kept")
    command.add_argument("--quiet", action="store_true", help="no progress")


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
    if given.check:
        runs = runs_of(jobs)
        searches = len({run.search for run in runs})
        found: dict[str, Any] = {"jobs": len(jobs.file.jobs), "runs": len(runs), "searches": searches}
        print(json.dumps(found) if given.json else f"{given.jobs}: {len(runs)} runs that share {searches} searches")
        return DONE
    return _carry_out(jobs, given)


def _carry_out(jobs: Jobs, given: argparse.Namespace) -> int:
    from workbench.batch.dask import dask_executor
    from workbench.batch.runner import PAGE, Batch, carried_out
    from workbench.batch.table import DONE as GOOD
    from workbench.batch.table import to_text

    if given.workers < 1:
        raise ValueError(f"--workers {given.workers} must be at least 1")
    batch = Batch.plan(jobs, given.out or Path("runs") / given.jobs.stem, given.resume)
    if given.dry_run:
        tasks = [{"search": task.search, "runs": [run.name for run in task.runs]} for task in batch.tasks]
        print(json.dumps({"runs": len(batch.runs), "left": tasks}) if given.json else batch.told())
        return DONE
    listeners = [] if given.quiet else [Narrator(len(batch.runs), sum(len(task.runs) for task in batch.tasks))]
    try:
        with nullcontext() if given.dask is None else dask_executor(given.dask, given.workers) as executor:
            frame = carried_out(batch, given.workers, executor, given.fail_fast, listeners)
    except KeyboardInterrupt:
        print("workbench: interrupted; run the same again to go on", file=sys.stderr)
        return INTERRUPTED
    for lost in frame.attrs["lost"]:
        print(f"workbench: {lost}", file=sys.stderr)
    rows: list[Any] = frame.astype(object).where(frame.notna(), None).to_dict("records")
    print(json.dumps(rows) if given.json else f"{to_text(rows)}\n{batch.folder.out / PAGE}")
    return DONE if set(frame["state"]) <= {GOOD} else FAILED


def add_list(command: argparse.ArgumentParser) -> None:
    """The options of ``workbench list``."""
    command.add_argument("folder", type=Path, help="what was given to batch as --out")


def list_runs(given: argparse.Namespace) -> int:
    """Print the runs of a folder."""
    from workbench.batch.folder import Folder
    from workbench.batch.table import rows, to_text

    if not given.folder.is_dir():
        raise ValueError(f"{given.folder} is no folder; name the one that was given to batch as --out")
    found = rows(Folder(given.folder))
    print(json.dumps(found) if given.json else to_text(found))
    return DONE


def add_compare(command: argparse.ArgumentParser) -> None:
    """The options of ``workbench compare``."""
    about = "folders of finished runs; for a page, also of other saved results"
    command.add_argument("folders", type=Path, nargs="+", metavar="RUN", help=about)
    command.add_argument("--html", type=Path, metavar="FILE", help="write a page that compares them, instead")


def compare(given: argparse.Namespace) -> int:
    """Print runs side by side, or write a page on which they are."""
    if given.html is not None:
        from workbench.report import compare as write

        path = write(given.folders, given.html)
        print(json.dumps({"page": str(path)}) if given.json else path)
        return DONE
    from workbench.batch.compare import compared

    frame = compared(given.folders)
    if given.json:
        print(frame.to_json())
    else:
        print(frame.astype(object).where(frame.notna(), "").to_string(float_format="{:.4f}".format))
    return DONE


def add_clean(command: argparse.ArgumentParser) -> None:
    """The options of ``workbench clean``."""
    command.add_argument("folder", type=Path, help="what was given to batch as --out")
    command.add_argument("--keep-failed", action="store_true", help="leave the logs of failed runs")
    command.add_argument("--searches", action="store_true", help="also what searches have finished; they start anew")
    about = "also a finished run; may be repeated"
    command.add_argument("--run", action="append", default=[], metavar="NAME", dest="names", help=about)
    command.add_argument("--dry-run", action="store_true", help="only show what would be removed")


def clean(given: argparse.Namespace) -> int:
    """Remove what is left over; prints what that is."""
    from workbench.batch.clean import clean as remove
    from workbench.batch.clean import remains

    paths = remains(given.folder, failed=not given.keep_failed, searches=given.searches, runs=given.names)
    if not given.dry_run:
        remove(given.folder, paths)
    names = [str(path) for path in paths]
    print(json.dumps(names) if given.json else "\n".join(names) or "nothing to remove")
    return DONE


class Narrator:
    """One line on stderr for each run that is done."""

    def __init__(self, runs: int, left: int):
        self.runs, self.done = runs, runs - left
        if self.done:
            print(f"workbench: {self.done} of {runs} runs were finished before", file=sys.stderr)

    def __call__(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "batch_started" and event["note"]:
            print(f"workbench: {event['note']}", file=sys.stderr)
        if event["event"] in ("run_finished", "run_failed"):
            self.done += 1
            print(f"workbench: {self.done}/{self.runs} {event['run']}: {_said(event)}", file=sys.stderr)


def _said(event: Mapping[str, Any]) -> str:
    if event["event"] == "run_failed":
        return f"FAILED, {event['reason']}"
    found = event["summary"]
    return f"{found['score']} {found['before']:.4f} -> {found['after']:.4f} with {found['macs']:.3f} of the MACs"
