"""Finished runs side by side: what they cost and score, and how wide they left each group."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import artefact
from workbench.batch import table
from workbench.batch.folder import Folder

if TYPE_CHECKING:
    import pandas as pd

FIGURES = ("model", "method", "budget", "seed", "macs", "params", "score", "before", "after", "difference",
           "predicted_loss", "real_loss")  # fmt: skip


def compared(folders: Sequence[Path]) -> pd.DataFrame:
    """One column a run; the figures, then of each group the share of its units that was kept.

    Raises
    ------
    ValueError
        A folder is no finished run of a batch.
    """
    import pandas as pd

    columns: dict[str, dict[str, Any]] = {}
    for path in folders:
        path = path.resolve()
        row = table.row(Folder(path.parent), path.name)
        if row is None or row["state"] == table.FAILED:
            raise ValueError(f"{path} is no finished run of a batch; workbench list {path.parent} shows them")
        plan = artefact.read_plan(path)
        kept = {f"kept of {name}": len(units) / plan["units"][name] for name, units in plan["kept"].items()}
        label = path.name if path.name not in columns else str(path)
        columns[label] = {figure: row[figure] for figure in FIGURES} | kept
    return pd.DataFrame(columns)
