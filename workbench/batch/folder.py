"""The folder of a batch: finished runs under their names, everything else out of their way.

    OUT/RUN/            plan.json, weights, reference, report.html, result.json, job.json, events.jsonl, log.txt
    OUT/failed/RUN/     failure.json, events.jsonl, log.txt of a run that failed; the result where only its export did
    OUT/searches/NAME/  what a search has finished, and its log
    OUT/.part/RUN/      a run under way; it is renamed when it is complete
    OUT/index.html, runs.csv, events.jsonl, .lock
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from workbench.batch.kept import FORMAT, Failed, Finished, read_kept
from workbench.batch.runs import Run

JOB, LOG, EVENTS, FAILURE = "job.json", "log.txt", "events.jsonl", "failure.json"


class Folder:
    """Where the runs of a batch lie."""

    def __init__(self, out: str | os.PathLike[str]):
        self.out = Path(out)

    def run(self, name: str) -> Path:
        """Of a finished run."""
        return self.out / name

    def part(self, name: str) -> Path:
        """Of a run under way."""
        return self.out / ".part" / name

    def failed(self, name: str) -> Path:
        """Of a run that failed."""
        return self.out / "failed" / name

    def search(self, name: str) -> Path:
        """Of a search."""
        return self.out / "searches" / name

    def begin(self, name: str) -> Path:
        """An empty folder for a run; what an earlier try has left is gone."""
        part = self.part(name)
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        return part

    def complete(self, name: str, job: Mapping[str, Any]) -> None:
        """The part becomes the run, whole, and on the disk before it has its name."""
        part = self.part(name)
        (part / JOB).write_text(json.dumps({"format": FORMAT, **job}, indent=1, allow_nan=False))
        for path in part.iterdir():
            _flush(path)
        _flush(part)
        os.rename(part, self.run(name))
        _flush(self.out)
        shutil.rmtree(self.failed(name), ignore_errors=True)

    def fail(self, name: str, failure: Mapping[str, Any]) -> Path:
        """Keep what is known of a run that failed, with its result where it is whole; returns the path of its log."""
        part, target = self.part(name), self.failed(name)
        with suppress(OSError):  # of a full disk: the reason is told in any case
            part.mkdir(parents=True, exist_ok=True)
            whole = (part / "plan.json").exists()  # which a result writes last: the export failed
            for path in part.iterdir():
                if not whole and path.name not in (LOG, EVENTS):
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            (part / FAILURE).write_text(json.dumps({"format": FORMAT, **failure}, indent=1))
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(exist_ok=True)
            os.rename(part, target)
        shutil.rmtree(part, ignore_errors=True)
        return target / LOG

    def job(self, name: str) -> dict[str, Any] | None:
        """What ``job.json`` of a finished run says, None where there is none.

        Raises
        ------
        ValueError
            It is damaged, or of another version.
        """
        path = self.run(name) / JOB
        return read_kept(path, Finished) if path.exists() else None

    def failure(self, name: str) -> dict[str, Any] | None:
        """What is known of a run that failed, None where it did not."""
        path = self.failed(name) / FAILURE
        return read_kept(path, Failed) if path.exists() else None

    def done(self, run: Run) -> bool:
        """Whether a run is finished.

        Raises
        ------
        ValueError
            Another run has its name.
        """
        job = self.job(run.name)
        if job is None:
            if self.run(run.name).exists():
                raise ValueError(f"{self.run(run.name)} is in the way: it is no run of a batch; move it, or give --out")
            return False
        other = Run.from_dict(job["job"])
        field = run.differs(other)
        if field:
            there, here = getattr(other, field), getattr(run, field)
            raise ValueError(
                f"{self.run(run.name)} was made with another {field}: {there} there, {here} here; give the job a name, "
                "another --out, or --no-resume to make it anew"
            )
        return True

    def names(self) -> list[str]:
        """The finished runs, sorted."""
        return sorted(path.parent.name for path in self.out.glob(f"*/{JOB}") if not path.parent.is_symlink())

    def failures(self) -> list[str]:
        """The runs that failed, sorted."""
        return sorted(path.parent.name for path in self.out.glob(f"failed/*/{FAILURE}"))

    def remains(self) -> Iterator[Path]:
        """What is left of runs that were killed."""
        yield from sorted(self.out.glob(".part/*"))


def _flush(path: Path) -> None:
    """Have a file or folder on the disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
