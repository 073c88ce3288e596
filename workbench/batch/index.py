"""The index page of a batch: all its runs in one HTML file that needs nothing else but the reports it leads to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from workbench.artefact import REPORT
from workbench.batch import table
from workbench.report import assets, comparison, units
from workbench.report.page import document
from workbench.report.view import runs

_TEMPLATES = Path(__file__).parent / "templates"


def render(rows: Sequence[table.Row]) -> str:
    """The page. Equal rows give equal bytes, except between ``<!--run-->`` and ``<!--/run-->``."""
    failed = [row for row in rows if row["state"] == table.FAILED]
    others = [row for row in rows if row["state"] != table.FAILED]
    return document(
        "index.html", assets.style(*comparison.STYLES), assets.script(*comparison.SCRIPTS), _TEMPLATES,
        verdict=f"{len(others)} of {len(rows)} runs", failed=failed, effort=[_effort(row) for row in others],
        runs=runs.view([row | {"link": _link(row), "cost": None} for row in others]),
    )  # fmt: skip


def _link(row: table.Row) -> str:
    return f"{quote(row['run'])}/{REPORT}" if row["state"] in (table.DONE, table.MISSED) else ""


def _effort(row: table.Row) -> dict[str, Any]:
    seconds = units.NONE if row["seconds"] is None else units.seconds(row["seconds"])
    return {"run": row["run"], "seconds": seconds, "peak": units.si(row["peak_bytes"], "B")}
