"""Tables of runs: for pandas, for a file of comma-separated values, for people."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from workbench.batch.folder import Folder

COLUMNS = (
    "run", "state", "model", "method", "budget", "seed", "macs", "params", "score", "before", "after", "difference",
    "low", "high", "predicted_loss", "real_loss", "seconds", "peak_bytes", "folder", "reason",
)  # fmt: skip
DONE, MISSED, FAILED, LEFT = "done", "missed", "failed", "left"
Row = dict[str, Any]


def row(folder: Folder, name: str) -> Row | None:
    """One run, whether it is finished or failed; None where nothing is known of it.

    ``state`` is ``missed`` where the model came out larger than its budget or was not verified.
    """
    job = folder.job(name)
    if job is not None:
        summary, low_high = job["summary"], job["summary"].get("interval") or (None, None)
        held = summary["target_met"] and summary["verified"]
        return _row(name, DONE if held else MISSED, job["job"], folder.run(name)) | {
            **{key: summary.get(key) for key in COLUMNS if key in summary}, "low": low_high[0], "high": low_high[1],
            "seconds": job["run"].get("seconds"), "peak_bytes": job["run"].get("peak_bytes"),
        }  # fmt: skip
    failure = folder.failure(name)
    if failure is None:
        return None
    return _row(name, FAILED, failure["job"], Path(failure["log"])) | {"reason": failure["reason"]}


def _row(name: str, state: str, job: Row, where: Path) -> Row:
    budget = ",".join(f"{key}={value}" for key, value in job["budget"].items() if (key, value) != ("multiple", 1))
    known = {"run": name, "state": state, "budget": budget, "folder": str(where)}
    return dict.fromkeys(COLUMNS) | {key: job[key] for key in ("model", "method", "seed")} | known


def unknown(job: Row) -> Row:
    """A run of which nothing is known yet."""
    return _row(job["name"], LEFT, job, Path())


def rows(folder: Folder, names: Iterable[str] | None = None) -> list[Row]:
    """All runs of a folder, or those of some names, finished ones first and failed ones last."""
    names = [*folder.names(), *folder.failures()] if names is None else names
    found = [one for name in dict.fromkeys(names) if (one := row(folder, name)) is not None]
    return sorted(found, key=lambda one: one["state"] == FAILED)


def to_csv(table: Sequence[Row]) -> str:
    """As comma-separated values. A text that a spreadsheet would take for a formula is quoted."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in table:
        writer.writerow(["" if one[key] is None else _harmless(one[key]) for key in COLUMNS])
    return text.getvalue()


def _harmless(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def to_text(table: Sequence[Row]) -> str:
    """For a terminal: what matters of each run, and of each failed one why and where its log is."""
    if not table:
        return "no runs"
    width = max(len(one["run"]) for one in table)
    lines = [f"{'run':<{width}}  {'macs':>6} {'params':>6} {'before':>8} {'after':>8}  state"]
    for one in table:
        if one["state"] == FAILED:
            continue
        shares = " ".join(f"{'' if one[key] is None else format(one[key], '.3f'):>6}" for key in ("macs", "params"))
        scores = " ".join(f"{'' if one[key] is None else format(one[key], '.4f'):>8}" for key in ("before", "after"))
        lines.append(f"{one['run']:<{width}}  {shares} {scores}  {one['state']}")
    lines = lines if len(lines) > 1 else []
    failed = [one for one in table if one["state"] == FAILED]
    lines += [f"FAILED {one['run']}: {one['reason']}\n       log: {one['folder']}" for one in failed]
    return "\n".join(lines)
