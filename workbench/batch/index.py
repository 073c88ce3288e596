"""The index page of a batch: all its runs in one HTML file that needs nothing else but the reports it leads to."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from workbench.batch import table
from workbench.report import assets, units

if TYPE_CHECKING:
    import jinja2

_TEMPLATES = Path(__file__).parent / "templates"
BADGES = {table.DONE: "met", table.MISSED: "missed", table.FAILED: "missed", table.LEFT: "missed"}


def render(rows: Sequence[table.Row]) -> str:
    """The page. Equal rows give equal bytes, except between ``<!--run-->`` and ``<!--/run-->``."""
    style = assets.style("page.css", "report.css")
    policy = f"default-src 'none'; style-src {assets.source_hash(style)}; base-uri 'none'; form-action 'none'"
    failed = [row for row in rows if row["state"] == table.FAILED]
    runs = [_view(row) for row in rows if row["state"] != table.FAILED]
    verdict = f"{len(runs)} of {len(rows)} runs"
    return _templates().get_template("index.html").render(
        style=style, policy=policy, verdict=verdict, runs=runs, failed=failed
    )


def _view(row: table.Row) -> dict[str, Any]:
    """A row as texts."""
    return {
        "run": row["run"], "state": row["state"], "badge": BADGES[row["state"]], "model": row["model"],
        "method": row["method"], "budget": row["budget"], "score": row["score"] or units.NONE,
        "macs": units.percent(row["macs"]), "params": units.percent(row["params"]),
        "before": units.score(row["before"]), "after": units.score(row["after"]),
        "difference": units.signed(row["difference"]), "interval": _interval(row),
        "report": f"{quote(row['run'])}/report.html" if row["state"] in (table.DONE, table.MISSED) else "",
        "seconds": units.seconds(row["seconds"]) if row["seconds"] is not None else units.NONE,
        "peak": units.si(row["peak_bytes"], "B"),
    }  # fmt: skip


def _interval(row: table.Row) -> str:
    if row["low"] is None or row["high"] is None:
        return ""
    return units.spread(row["difference"], row["low"], row["high"])


@cache
def _templates() -> jinja2.Environment:
    import jinja2  # here and not above: checking a job file must stay cheap

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
