"""Batches of the tests: a job of the shop, run as a shell would or in this process, and what is compared of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from workbench.batch.events import Event
from workbench.batch.runner import run

ROOT = Path(__file__).parents[2]
SHOP = "tests.batch.shop"
SHOP_JOB = {
    "model": f"{SHOP}:build", "inputs": f"{SHOP}:one", "calibration": f"{SHOP}:some", "evaluate": f"{SHOP}:score",
    "budget": ["macs=0.7", "macs=0.5"], "method": "brief",
}  # fmt: skip
METHODS = {
    "brief": {"refinement": 3}, "plain": {"refinement": 0, "mode": "measured"},
    "quick": {"refinement": 0, "mode": "predicted"},
}  # fmt: skip
FILES = {
    "plan.json", "weights.safetensors", "reference.safetensors", "report.html", "result.json", "job.json",
    "events.jsonl", "log.txt",
}  # fmt: skip


def jobs(*changes: dict[str, Any]) -> dict[str, Any]:
    """A job file with one job of the shop for each change."""
    return {"methods": METHODS, "jobs": [{**SHOP_JOB, **change} for change in changes or ({},)]}


def batch(out: Path, *changes: dict[str, Any], **options: Any) -> tuple[Any, list[Event]]:
    """The table of a batch, and its events."""
    events: list[Event] = []
    options = {"progress": False, "on_event": events.append, **options}
    return run(jobs(*changes), out=out, **options), events


# a shell starts background jobs with SIGINT ignored, and children inherit that
MAIN = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "from workbench.cli import main; sys.exit(main())"
)


def shell(*arguments: str | Path) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=ROOT,
    )  # fmt: skip


def compared(out: Path) -> dict[str, bytes]:
    """All that must be the same of two batches of the same jobs; of reports, what is outside the marked part."""
    found = {}
    for path in sorted(out.glob("*/*")):
        if path.parent.name in ("failed", "searches", ".part"):
            continue
        name = f"{path.parent.name}/{path.name}"
        if path.suffix == ".html":
            found[name] = re.sub(rb"<!--run-->.*?<!--/run-->", b"", path.read_bytes(), flags=re.DOTALL)
        elif path.name in ("result.json", "job.json"):
            content = json.loads(path.read_text())
            found[name] = json.dumps({key: value for key, value in content.items() if key != "run"}).encode()
        elif path.suffix in (".json", ".safetensors"):
            found[name] = path.read_bytes()
    return found


def whole(out: Path) -> bool:
    """Whether everything that looks like a run is one, with all its files."""
    folders = [path for path in out.iterdir() if path.is_dir() and path.name not in ("failed", "searches", ".part")]
    return all({path.name for path in folder.iterdir()} >= FILES for folder in folders)


def written(path: Path, *changes: dict[str, Any]) -> Path:
    """The job file of ``jobs`` as TOML; lists and texts are written as in JSON."""
    tables = {f"[methods.{name}]": method for name, method in METHODS.items()}
    lines = [line for head, table in tables.items() for line in (head, *_fields(table))]
    lines += [line for job in jobs(*changes)["jobs"] for line in ("[[jobs]]", *_fields(job))]
    path.write_text("\n".join(lines))
    return path


def _fields(table: dict[str, Any]) -> list[str]:
    return [f"{key} = {json.dumps(value)}" for key, value in table.items()]
