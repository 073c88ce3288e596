"""Several results on one page: a table that sorts and filters, accuracy against cost, widths side by side."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from workbench.report import assets
from workbench.report.page import document
from workbench.report.view import runs, widths, words
from workbench.whole import write_text

if TYPE_CHECKING:
    from workbench.result import Result

STYLES, SCRIPTS = ("page.css", "report.css", "runs.css"), ("sort.js", "runs.js")


def compare(results: Sequence[Result | str | os.PathLike[str]], path: str | os.PathLike[str]) -> Path:
    """Write one HTML file in which results stand side by side. Returns its path.

    Parameters
    ----------
    results : results, or folders that ``Result.save`` or a batch wrote; the page links to the report in a folder
    path : the file; folders above it are made

    Raises
    ------
    ValueError
        There is none, or a folder holds no result.

    Examples
    --------
    >>> import tempfile, torch, workbench as wb
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    >>> study = wb.Study(model, torch.randn(1, 8), calibration=[torch.randn(64, 8)], refinement=None)
    >>> results = [study.compress(wb.Budget(macs=share)) for share in (0.7, 0.5)]
    >>> compare(results, tempfile.mkdtemp() + "/both.html").name
    'both.html'
    """
    if not results:
        raise ValueError("there is nothing to compare; give at least one result, or a folder that holds one")
    target = Path(path)
    entries = [_entry(one, target.parent) for one in results]
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, render(entries))
    return target


def render(entries: Sequence[tuple[str, str, Mapping[str, Any]]]) -> str:
    """The page. Equal entries give equal bytes.

    Args:
        entries: of each result its name, the address of its page (or an empty text), and what ``Result.to_dict()``
            returned.

    Raises:
        ValueError: if a result is none.
    """
    rows = []
    for name, link, result in entries:
        try:
            rows.append(_row(name, link, result))
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(
                f"{name} holds no result that this version of workbench wrote ({type(error).__name__}: {error}); "
                "compress again"
            ) from error
    seen = runs.view(rows)
    side_by_side = widths.view([result for _, _, result in entries], seen["rows"])
    style, script = assets.style(*STYLES), assets.script(*SCRIPTS)
    return document("comparison.html", style, script, runs=seen, widths=side_by_side)


def _entry(one: Result | str | os.PathLike[str], beside: Path) -> tuple[str, str, Mapping[str, Any]]:
    from workbench.artefact import AGAIN, REPORT, RESULT
    from workbench.reading import read_object
    from workbench.result import Result

    if isinstance(one, Result):
        return one.source.name, "", one.to_dict()
    folder = Path(one)
    if not (folder / RESULT).is_file():
        raise ValueError(f"{folder} holds no result: there is no {RESULT} in it; give what Result.save wrote")
    page = folder / REPORT
    link = quote(Path(os.path.relpath(page.resolve(), beside.resolve())).as_posix()) if page.is_file() else ""
    return folder.resolve().name, link, read_object(folder / RESULT, AGAIN)


def _row(name: str, link: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """The row of ``runs.view``."""
    score, cost = result["score"], result["cost"]
    low, high = score["interval"] or (None, None)
    held = result["target_met"] and result["verification"]["ok"]
    return {
        "run": name, "link": link, "state": runs.DONE if held else "missed", "model": result["model"]["name"],
        "method": result["source"]["method"], "budget": words.budget(result["budget"]), "score": score["name"],
        "macs": cost["ratio"].get("macs"), "params": cost["ratio"].get("params"),
        "cost": (cost["before"]["macs"], cost["after"]["macs"]),
        "before": score["before"], "after": score["after"], "difference": score["difference"], "low": low, "high": high,
    }  # fmt: skip
